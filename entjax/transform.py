"""The algebra: a Transform rewrites a payload (a Signal, or a batch of logits), and `chain` composes them the way optax does.

    init(payload) -> state                            () when stateless; Signal transforms must accept payload=None
    update(payload, state, context) -> (payload, state)

State is keyed by transform name and stateless transforms leave no entry, so that adding one to a chain still restores an
old checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from entjax import conflicts, masked
from entjax.control import Controller, as_controller
from entjax.types import Signal

NOTHING: Mapping[str, Any] = MappingProxyType({})


class Transform(NamedTuple):
    """One rule. Everything after `terms` tells what the rule touches, so that mistakes are found when a chain is built."""

    name: str
    init: Callable[[Any], Any]
    update: Callable[[Any, Any, Any], tuple[Any, Any]]
    reads: Mapping[str, Callable] = (
        NOTHING  # features of the current policy, before the chain, no gradient -> context.stats
    )
    terms: Mapping[str, Callable] = (
        NOTHING  # features inside the loss, with gradient, times signal.coef[name]
    )
    remembers: Mapping[str, Callable] = NOTHING  # features of the behaviour policy -> context.rollout.extra
    needs: frozenset[str] = frozenset()  # keys of rollout.extra that must be there
    writes: frozenset[str] = frozenset()  # Signal fields that the rule may change
    sees: frozenset[str] = (
        frozenset()
    )  # "advantage", "clip": what it looks at without writing it, so that who decides it must come first
    owns: frozenset[str] = (
        frozenset()
    )  # what only one rule of a chain may decide: "baseline", "entropy", "clip", ...
    knobs: frozenset[str] = frozenset()  # scalars handed to the next rollout
    hyper: Mapping[str, Any] = NOTHING  # the hyperparameters, for `entjax methods`
    parts: tuple[Transform, ...] | None = None  # the members of a chain
    renamed: str = ""  # the name before rename()

    @property
    def method(self) -> str:
        """What it is, whatever a chain calls it."""
        return self.renamed or self.name


def stateless(
    name: str, f: Callable[[Any, Any], Any], *, hyper: Mapping[str, Any] = NOTHING, **about
) -> Transform:
    """A transform without state from `f(payload, context) -> payload`; `hyper` only tells `entjax methods` about it."""
    return tunable(name, f, {}, **about)._replace(hyper=MappingProxyType(dict(hyper)))


def tunable(
    name: str,
    f: Callable[..., Any],
    hyper: Mapping[str, Any],
    *,
    measure: Callable[[Any], jax.Array] | None = None,
    **about,
) -> Transform:
    """A transform from `f(payload, context, **values) -> payload` whose hyperparameters may each be a number, a schedule or a
    Controller. Controllers are fed with `measure(context)`, without it with the policy entropy in the way that they ask for
    (`Controller.measure`). Values that change are reported as "<name>/<hyperparameter>"."""
    init, drive = _driven(name, hyper, measure)

    def update(payload, state, context):
        context = context if context.name else context.enter(name)
        values, moving, state = drive(context, state)
        payload = f(payload, context, **values)
        return (payload.note(context, **moving) if moving else payload), state

    start = lambda payload: init()
    return Transform(name, start, update, hyper=MappingProxyType(dict(hyper)), **_frozen(about))


def stateful(
    name: str,
    start: Callable[[], Any],
    f: Callable[..., tuple[Any, Any]],
    hyper: Mapping[str, Any],
    *,
    measure: Callable[[Any], jax.Array] | None = None,
    **about,
) -> Transform:
    """`tunable` with a state of its own beside the controllers': `f(payload, own, context, **values) -> (payload, own)`."""
    init, drive = _driven(name, hyper, measure)

    def update(payload, state, context):
        context = context if context.name else context.enter(name)
        values, moving, tuned = drive(context, state["hyper"])
        payload, own = f(payload, state["own"], context, **values)
        payload = payload.note(context, **moving) if moving else payload
        return payload, {"own": own, "hyper": tuned}

    begin = lambda payload: {"own": start(), "hyper": init()}
    return Transform(name, begin, update, hyper=MappingProxyType(dict(hyper)), **_frozen(about))


def _driven(name: str, hyper: Mapping[str, Any], measure) -> tuple[Callable, Callable]:
    """(init() -> state, drive(context, state) -> (all values, those that change, new state)) of the hyperparameters."""
    absurd = [key for key, value in hyper.items() if isinstance(value, float) and math.isnan(value)]
    if absurd:
        raise ValueError(f"{name}: {absurd[0]}=nan is no number.")
    controllers = {key: as_controller(value) for key, value in hyper.items() if is_dynamic(value)}
    constants = {key: value for key, value in hyper.items() if key not in controllers}

    def see(key, controller, context):
        if not isinstance(hyper[key], Controller):
            return 0.0  # a schedule looks at nothing
        return measured_entropy(context, controller.measure) if measure is None else measure(context)

    def init():
        states = {key: controller.init() for key, controller in controllers.items()}
        return {key: state for key, state in states.items() if jax.tree.leaves(state)} or ()

    def drive(context, state):
        new_state, values = {}, {}
        for key, controller in controllers.items():
            old = state[key] if key in (state or {}) else controller.init()
            values[key], new = controller.update(see(key, controller, context), old)
            if jax.tree.leaves(new):
                new_state[key] = new
        return {**constants, **values}, values, new_state or ()

    return init, drive


def is_dynamic(value: Any) -> bool:
    """True for a schedule or a Controller, False for a number or a name."""
    return isinstance(value, Controller) or callable(value)


def measured_entropy(context, measure: str = "shannon") -> jax.Array:
    """Mean policy entropy in nats over the sampled tokens.

    "shannon": of the whole distribution, the current policy's if some transform reads it, else as sampled. "nll": -mean old_logp,
    which needs no distribution; unbiased for samples of the policy itself, noisier (AEPO, DCPO, Skywork-OR1).
    """
    rollout = context.rollout
    if measure == "nll":
        entropy = -rollout.old_logp
    else:
        entropy = context.stats.get("entropy", rollout.entropy)
    return masked.mean(entropy, rollout.mask)


def chain(*transforms: Transform, name: str = "chain") -> Transform:
    """Apply transforms one after another. Nested chains are flattened; two members of one name are an error."""
    for t in transforms:
        if not isinstance(t, Transform):
            said = (
                f"{t.__name__} itself: call it, {t.__name__}()"
                if callable(t)
                else f"{type(t).__name__} {t!r:.60}"
            )
            raise TypeError(f"chain takes transforms, such as advantages.group_normalize(); got {said}.")
    parts = tuple(
        part for t in transforms for part in ((t,) if t.parts is None else t.parts) if part.name != "identity"
    )
    conflicts.check(parts)

    def init(payload):
        states = {part.name: part.init(payload) for part in parts}
        return {key: state for key, state in states.items() if jax.tree.leaves(state)}

    def update(payload, state, context):
        new_state = {}
        for part in parts:
            old = state.get(part.name, ())
            payload, new = part.update(payload, old, context.enter(part.name))
            if jax.tree.leaves(new):
                new_state[part.name] = new
        return payload, new_state

    union = {field: _union(parts, field) for field in ("reads", "terms", "remembers")}
    sets = {
        field: frozenset().union(*(getattr(p, field) for p in parts))
        for field in ("needs", "writes", "sees", "owns", "knobs")
    }
    return Transform(name, init, update, **union, **sets, parts=parts)


def identity() -> Transform:
    """Changes nothing."""
    return stateless("identity", lambda payload, context: payload)


def rename(name: str, t: Transform) -> Transform:
    """The same transform under another name, so that a chain may hold it twice."""
    if t.parts is not None:
        raise ValueError("A chain has no name of its own in another chain: rename its members.")
    update = lambda payload, state, context: t.update(payload, state, context.enter(name))
    return t._replace(name=name, update=update, renamed=t.method)


def during(start: int, stop: int, t: Transform) -> Transform:
    """Apply `t` only while start <= step < stop; outside, the payload and the state of `t` stay as they are.

    Steps are rollout batches in a per_rollout chain and optimizer steps (batches x minibatches) in a per_step chain. Who owns
    something (a baseline, a clip range) owns it at all steps: two in turn are one transform of your own, or two runs.
    """
    if not 0 <= start < stop:
        raise ValueError(f"during() needs 0 <= start < stop, got start={start}, stop={stop}.")
    if t.parts is not None:
        return chain(*(during(start, stop, part) for part in t.parts), name=t.name)

    def update(payload, state, context):
        active = (jnp.asarray(context.step) >= start) & (jnp.asarray(context.step) < stop)
        new_payload, new_state = t.update(payload, state, context)
        choose = lambda new, old: jax.tree.map(lambda a, b: jnp.where(active, a, b), new, old)
        return choose(new_payload, _with_same_keys(payload, new_payload)), choose(new_state, state)

    return t._replace(update=update)


def _with_same_keys(old, new):
    """`old` with neutral values for the dictionary entries that only `new` has: NaN for knobs (not set), zero for others."""
    if not isinstance(new, Signal):
        return old
    fill, neutral = {}, {"coef": 0.0, "own_scale": 0.0, "knobs": jnp.nan, "metrics": 0.0}
    for field, value in neutral.items():
        before, after = getattr(old, field), getattr(new, field)
        fill[field] = {
            key: before[key] if key in before else jnp.full_like(after[key], value) for key in after
        }
    return old.replace(**fill)


def _union(parts, field: str) -> Mapping[str, Callable]:
    merged: dict[str, Callable] = {}
    for part in parts:
        for key, feature in getattr(part, field).items():
            if merged.setdefault(key, feature) is not feature:
                raise ValueError(
                    f"Two transforms give different features the name '{key}' in `{field}` (the second is '{part.name}'): "
                    "rename one of them."
                )
    return MappingProxyType(merged)


def _frozen(about: dict[str, Any]) -> dict[str, Any]:
    sets = {
        key: frozenset(value)
        for key, value in about.items()
        if key in ("needs", "writes", "sees", "owns", "knobs")
    }
    return {**about, **sets}
