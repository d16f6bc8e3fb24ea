"""Where do numbers stop being finite? Goes through a step as the data flows and names everything that is NaN or infinite.

parameters -> rollout -> layers -> scoring pass -> per_rollout transforms -> reads and per_step transforms -> loss and gradient
of each part. The first finding is the cause; what follows is mostly its consequence.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from entjax.loss import Objective
from entjax.models import Decoder
from entjax.models.weights import unstack
from entjax.passes import over_microbatches, policy_features, split_rows
from entjax.setup import Parts, chunk_of
from entjax.step import Piece, TrainState, make_gradients, structure_of
from entjax.types import Context, Rollout, Signal

UNBOUNDED = ("clip_low", "clip_high")  # may be infinite on purpose


class Finding(NamedTuple):
    """Something that is not finite."""

    where: str  # "the per_step transform 'bad'", "layer 3"
    what: str  # "advantage", "the output of attention"
    kind: str  # "NaN" or "infinite"
    count: int
    size: int
    first: tuple[int, ...]  # the first place; for [B, T] the row and the token

    def __str__(self) -> str:
        names = ("row", "token") if len(self.first) < 3 else ()
        place = ", ".join(f"{n} {i}" for n, i in zip(names, self.first)) if names else f"index {self.first}"
        at = f" at {self.count} of {self.size} places (first: {place})" if self.first else ""
        return f"{self.where}: {self.what} is {self.kind}{at}"


class Findings:
    """Collects findings; each `what` of a group is reported only where it first appears."""

    def __init__(self) -> None:
        self.found: list[Finding] = []
        self._known: set[str] = set()

    def look(
        self, where: str, what: str, x: Any, mask: Any = None, *, once: str = "", infinite: bool = True
    ) -> bool:
        """Note `x` if it is not finite (where the mask is set); True if so."""
        x = jnp.asarray(x)
        if not jnp.issubdtype(x.dtype, jnp.floating) or once + what in self._known:
            return False
        nan = jnp.isnan(x)
        bad = nan | jnp.isinf(x) if infinite else nan
        if mask is not None and x.shape[:2] == mask.shape:
            bad = bad & mask.reshape(mask.shape + (1,) * (x.ndim - 2))
        count = int(bad.sum())
        if not count:
            return False
        self._known |= {once + what} if once else set()
        flat = int(jnp.argmax(bad.reshape(-1)))
        first = tuple(int(i) for i in np.unravel_index(flat, x.shape)) if x.ndim else ()
        kind = "NaN" if bool((nan & bad).any()) else "infinite"
        self.found.append(Finding(where, what, kind, count, int(x.size), first))
        return True


def diagnose(parts: Parts, state: TrainState, rollout: Rollout) -> list[Finding]:
    """What is not finite in the step from `state` on `rollout` (as the strategy made it), in the order of the computation."""
    out = Findings()
    for name, tree in (("the policy", state.params), ("the reference policy", state.reference)):
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            out.look(name, f"the parameter {weight(path)}", leaf)
    _rollout(out, "the rollout", rollout)
    _layers(out, parts, state, rollout)
    known = set(rollout.extra)
    rollout = parts.score(state, rollout, None)
    rollout = rollout.replace(extra={k: x for k, x in rollout.extra.items() if k != "reads"})
    scored = {k: x for k, x in rollout.extra.items() if k not in known} | {"old_logp": rollout.old_logp}
    for name, x in scored.items():
        if x is not None:
            out.look("the scoring pass", name, x, rollout.mask)
    key = jax.random.fold_in(state.key, state.step)
    stats = {"entropy": rollout.entropy, "logp": rollout.old_logp, **rollout.extra}
    context = Context(rollout, stats, state.step, jax.random.fold_in(key, 0))
    per_rollout = ("per_rollout", parts.objective.per_rollout, state.signal_state["per_rollout"])
    signal = _chain(out, *per_rollout, Signal.start(rollout), context)
    signal = signal.replace(metrics={}, knobs={})
    pieces = split_rows((rollout, signal), rollout.tokens.shape[0], parts.config.minibatches)
    for index in range(parts.config.minibatches):
        rows, part = jax.tree.map(lambda x, i=index: x[i], pieces)
        count = state.step * parts.config.minibatches + index
        _minibatch(out, parts, state, Piece(rows, part, None, None), (count, jax.random.fold_in(key, index + 1)))  # fmt: skip
    return out.found


def _rollout(out: Findings, where: str, rollout: Rollout) -> None:
    out.look(where, "reward", rollout.reward)
    for name in ("logp", "entropy"):
        out.look(where, name, getattr(rollout, name), rollout.mask)
    for name, x in rollout.extra.items():
        out.look(where, f"extra[{name!r}]", x, rollout.mask)


def _layers(out: Findings, parts: Parts, state: TrainState, rollout: Rollout) -> None:
    """The hidden states after every attention and MLP of entjax's own decoder."""
    graphdef, _ = nnx.split(parts.model)
    pieces = parts.config.microbatches * parts.config.minibatches

    def flags(rows: Rollout, _) -> dict[str, jax.Array]:
        model, seen = _watched(nnx.merge(graphdef, state.params))
        hidden = model(rows.tokens)
        wide = lambda x: jnp.max(jnp.where(jnp.isfinite(x), 0.0, jnp.abs(x).astype(jnp.float32)), axis=-1)
        return {f"{i:05}": wide(x) for i, x in enumerate([*seen, hidden])}

    found = over_microbatches(flags, rollout, pieces)
    real = jnp.cumsum(rollout.mask[:, ::-1], axis=1)[:, ::-1] > 0  # prompt and completion, no padding
    for i, name in enumerate(sorted(found)):
        last = i == len(found) - 1
        layer, what = ("the final norm", "its output") if last else (f"layer {i // 2}", ("attention", "MLP")[i % 2])  # fmt: skip
        if out.look(layer, what if last else f"the residual after {what}", found[name], real):
            return


def _watched(model: nnx.Module) -> tuple[Any, list]:
    """The model, changed to run its layers one by one, and a list that fills with what leaves each of their halves."""
    seen: list = []
    if not isinstance(model, Decoder):
        return model, seen
    if model.config.scan_layers:
        layers = unstack(nnx.to_pure_dict(nnx.state(model.layers)))
        model.layers = nnx.List([nnx.Dict(jax.tree.map(nnx.Param, one)) for one in layers])
    model.config = dataclasses.replace(model.config, scan_layers=False, remat="none")

    def keep(x, axes):
        seen.append(x)
        return x

    model.constrain = keep
    return model, seen


def _chain(out: Findings, where: str, chain: Any, states: Mapping, signal: Signal, context: Context) -> Signal:  # fmt: skip
    """The chain, transform by transform; every field is reported where it first goes wrong."""
    for part in chain.parts or ():
        signal, after = part.update(signal, states.get(part.name, ()), context.enter(part.name))
        name = f"the {where} transform '{part.name}'"
        for field in ("reward", "advantage", "weight", "scale", *UNBOUNDED):
            out.look(name, field, getattr(signal, field), signal.mask, once=where, infinite=field not in UNBOUNDED)  # fmt: skip
        for group in ("coef", "own_scale", "knobs"):
            for key, x in getattr(signal, group).items():
                out.look(name, f"{group}[{key!r}]", x, signal.mask, once=where)
        for path, x in jax.tree_util.tree_leaves_with_path(after):
            out.look(name, f"its state{jax.tree_util.keystr(path)}", x, once=where, infinite=False)
    return signal


def _minibatch(out: Findings, parts: Parts, state: TrainState, piece: Piece, clock: tuple) -> None:
    objective, c = parts.objective, parts.config
    graphdef, _ = nnx.split(parts.model)
    chunk, rows = chunk_of(c, parts.layout), piece.rollout
    reads, reference = dict(objective.per_step.reads), state.reference_params(objective)

    def features(some: Rollout, pack) -> dict[str, jax.Array]:
        return policy_features(
            graphdef, state.params, reference, some, reads, chunk, pack, structure_of(objective.teacher)
        )

    stats = over_microbatches(features, rows, c.microbatches) if reads else {}
    for name, x in stats.items():
        out.look("the read feature", name, x, rows.mask, once="read")
    per_step = ("per_step", objective.per_step, state.signal_state["per_step"])
    signal = _chain(out, *per_step, piece.signal, Context(rows, stats, *clock))
    for name, part, alone in _alone(objective, signal):
        gradients = jax.jit(make_gradients(graphdef, part, c.microbatches, chunk))
        grads, result = gradients(state, piece._replace(signal=alone))
        if out.look(name, "the loss", result.loss, once=name):
            continue
        for path, leaf in reversed(jax.tree_util.tree_leaves_with_path(grads)):
            if out.look(name, f"the gradient of {weight(path)}", leaf, once=name):
                break  # of a backward pass the last layer is the first
        norm = jnp.sqrt(sum(jnp.sum(jnp.square(g.astype(jnp.float32))) for g in jax.tree.leaves(grads)))
        out.look(name, "the norm of its gradient", norm, once=name)


def _alone(objective: Objective, signal: Signal) -> list[tuple[str, Objective, Signal]]:
    """Every part of the loss by itself: the surrogate, each term."""
    named = getattr(objective.per_token, "__qualname__", "surrogate").split(".")[0]
    out = [(f"the surrogate {named}", objective, signal.replace(coef={}))]
    silent = copy.copy(objective)
    silent.per_token = lambda log_ratio, signal: jnp.zeros_like(log_ratio)
    return out + [(f"the term '{k}'", silent, signal.replace(coef={k: x})) for k, x in signal.coef.items()]


def weight(path: tuple) -> str:
    """layers/0/down, from a path in a parameter tree."""
    parts = [str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", "")))) for key in path]
    return "/".join(part for part in parts if part != "value")
