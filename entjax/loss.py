"""The objective and the one loss function: the only place with a gradient.

    loss = sum(scale * -weight * surrogate) + sum_k sum(own_scale_k * coef_k * feature_k)

`own_scale_k` is `scale` unless the term brings averaging weights of its own. Every number but the surrogate and the features
is decided before the gradient, so the loss of a batch is the sum of the losses of its microbatches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from entjax import conflicts, vocab
from entjax.averages.token_mean import token_mean
from entjax.packing import Places
from entjax.surrogates import Surrogate, ppo_clip, sees_whole_rows
from entjax.transform import Transform, chain, identity
from entjax.types import Rollout, Signal


class Objective:
    """What to optimise: two chains and a surrogate. An objective that names no average gets `averages.token_mean()`."""

    def __init__(
        self,
        per_rollout: Transform | None = None,
        per_step: Transform | None = None,
        per_token: Surrogate = ppo_clip,
        *,
        reference_decay: float = 1.0,
        teacher: Any = None,
        rules: Transform | Callable[[Mapping[str, Any]], Transform] | None = None,
    ):
        """`per_rollout` runs once per rollout batch (behaviour statistics), `per_step` once per optimizer step (the current
        policy), `per_token` inside the gradient. `reference_decay`: 1 keeps the reference policy frozen, less makes it an
        exponential moving average of the policy. `teacher`: a module that is the reference policy, of any structure over the
        same vocabulary; None: the policy as it was at the start. `rules`: the decoding chain of the rollouts, or a function of
        their knobs that gives it, where the method has one."""
        if not 0.0 <= reference_decay <= 1.0:
            raise ValueError(f"reference_decay must lie in [0, 1], got {reference_decay}.")
        if teacher is not None and reference_decay < 1.0:
            raise ValueError(
                f"reference_decay={reference_decay} moves the reference towards the policy, which a teacher does not do: leave "
                "one of them out."
            )
        if not callable(per_token) or isinstance(per_token, Transform):
            raise TypeError(
                f"per_token takes a surrogate such as ej.surrogates.ppo_clip, got {per_token!r:.60}."
            )
        first = chain(per_rollout or identity(), name="per_rollout")
        second = chain(per_step or identity(), name="per_step")
        if "scale" not in first.owns | second.owns:
            second = chain(second, token_mean(), name="per_step")
        conflicts.check_whole((*(first.parts or ()), *(second.parts or ())))
        self.per_rollout = first
        self.per_step = second
        self.per_token = per_token
        self.reference_decay = float(reference_decay)
        self.teacher = teacher
        self.rules = rules

    @property
    def parts(self) -> tuple[Transform, ...]:
        """All transforms, in the order in which they run."""
        return (*(self.per_rollout.parts or ()), *(self.per_step.parts or ()))

    def replace(self, **changes: Any) -> Objective:
        """The same objective with other arguments: `recipe.replace(per_step=ej.chain(recipe.per_step, more))`."""
        names = ("per_rollout", "per_step", "per_token", "reference_decay", "teacher", "rules")
        return Objective(**({name: getattr(self, name) for name in names} | changes))

    @property
    def remembers(self) -> dict[str, vocab.Feature]:
        """Features of the behaviour policy that the scoring pass must store in rollout.extra."""
        wanted = {**self.per_rollout.reads, **self.per_rollout.remembers, **self.per_step.remembers}
        return {name: f for name, f in wanted.items() if name not in ("logp", "entropy")}

    @property
    def needs_reference(self) -> bool:
        """True when some part looks at a reference policy."""
        seen = {**self.remembers, **self.per_step.reads, **self.per_step.terms, **self.per_rollout.terms}
        return "ref_logp" in self.needs or vocab.reads_reference_logits(seen)

    @property
    def needs(self) -> frozenset[str]:
        """Keys of rollout.extra without which the chains cannot run."""
        return self.per_rollout.needs | self.per_step.needs

    @property
    def knobs(self) -> frozenset[str]:
        """Names of the scalars that the chains hand to the next rollout."""
        return self.per_rollout.knobs | self.per_step.knobs

    @property
    def terms(self) -> dict[str, vocab.Feature]:
        """The differentiable features of both chains."""
        return {**self.per_rollout.terms, **self.per_step.terms}

    def init(self) -> dict:
        """State of both chains, keyed by transform name."""
        return {"per_rollout": self.per_rollout.init(None), "per_step": self.per_step.init(None)}

    def __repr__(self) -> str:
        lines = [
            f"  {where}: {' -> '.join(p.name for p in t.parts or ()) or '-'}"
            for where, t in (("per_rollout", self.per_rollout), ("per_step", self.per_step))
        ]
        name = getattr(self.per_token, "__qualname__", repr(self.per_token)).split(".")[0]
        return "Objective(\n" + "\n".join(lines) + f"\n  per_token: {name}\n)"


class LossOutput(NamedTuple):
    loss: Float[Array, ""]
    logp: Float[Array, "B T"]
    entropy: Float[Array, "B T"]


def log_ratios(logp: Array, old_logp: Array, mask: Array) -> Array:
    """log(pi_theta / pi_old), 0 outside the mask. Not clipped: that would cut the gradient of surrogates linear in it."""
    return jnp.where(mask, logp - old_logp.astype(logp.dtype), 0)


def token_losses(
    log_ratio: Float[Array, "B T"], signal: Signal, values: Mapping[str, Array], surrogate: Surrogate
) -> Float[Array, "B T"]:
    """The loss of every token; its sum is the loss. `values` are the features named in signal.coef."""
    return surrogate_losses(log_ratio, signal, surrogate) + term_losses(signal, values, log_ratio)


def surrogate_losses(log_ratio: Array, signal: Signal, surrogate: Surrogate) -> Float[Array, "B T"]:
    """scale * -weight * surrogate."""
    dtype = log_ratio.dtype
    return signal.scale.astype(dtype) * -signal.weight.astype(dtype) * surrogate(log_ratio, signal)


def term_losses(signal: Signal, values: Mapping[str, Array], like: Array) -> Float[Array, "B T"]:
    """sum_k own_scale_k * coef_k * feature_k."""
    total = jnp.zeros_like(like)
    for name, coef in signal.coef.items():
        scale = signal.own_scale.get(name, signal.scale)
        factor = scale.astype(like.dtype) * coef.astype(like.dtype)
        total = total + jnp.where(factor != 0, factor * values[name], 0)
    return total


def policy_loss(
    objective: Objective,
    hidden: Float[Array, "B T D"],
    head: Float[Array, "D V"],
    rollout: Rollout,
    signal: Signal,
    *,
    reference: tuple[Array, Array] | None = None,
    chunk: int | vocab.Chunks = vocab.CHUNK,
    places: Places | None = None,
) -> LossOutput:
    """The loss of a (micro)batch from the policy's hidden states; one sweep over the vocabulary gives value and gradients.

    `reference`: (hidden, head) of the reference policy, for terms that compare whole distributions. `places`: the hidden
    states are those of these places; then logp and entropy come there too. A rollout without old_logp is taken to come from
    this very policy: its ratios are 1 and have a gradient.
    """
    signal = signal.replace(reward=None, knobs={}, metrics={})
    terms = {name: feature for name, feature in objective.terms.items() if name in signal.coef}
    align = vocab.before if places is None else lambda h: h
    options: dict = {"temperature": rollout.temperature, "chunk": chunk, "align": align}
    known = jnp.zeros(())
    side = {**per_token_inputs(rollout), "signal": signal, "mask": rollout.mask}
    if sees_whole_rows(objective.per_token):
        known, side["slope"] = _row_slopes(
            objective.per_token, hidden, head, rollout, signal, options, places
        )
    tokens = rollout.tokens
    if places is not None:
        tokens, side = places.gather((tokens, side))
        side["mask"] = side["mask"] & places.taken()
    if reference is not None:
        side["ref_hidden"], options["reference_head"] = align(reference[0]), reference[1]

    def per_token(row):
        logp, part = vocab.logp(row), row.side["signal"]
        if "old_logp" not in row.side:
            row = row.replace(side={**row.side, "old_logp": jax.lax.stop_gradient(logp)})
        if "slope" in row.side:  # its value is `known`; here only its gradient
            losses = row.side["slope"] * (logp - jax.lax.stop_gradient(logp))
        else:
            log_ratio = log_ratios(logp, row.side["old_logp"], part.mask & row.side["mask"])
            losses = surrogate_losses(log_ratio, part, objective.per_token)
        losses = losses + term_losses(part, {name: feature(row) for name, feature in terms.items()}, losses)
        aux = {"logp": jax.lax.stop_gradient(logp), "entropy": jax.lax.stop_gradient(vocab.entropy(row))}
        return jnp.where(row.side["mask"], losses, 0), aux

    loss, aux = vocab.sweep(per_token, hidden, head, tokens, side, **options)
    return LossOutput(loss + known.astype(loss.dtype), aux["logp"], aux["entropy"])


def _row_slopes(surrogate, hidden, head, rollout, signal, options, places):
    """(the loss, d loss / d logp [B, T]): a surrogate of whole rows is differentiated on logp alone, before the sweep."""
    frozen = jax.lax.stop_gradient((hidden, head))
    tokens, here = rollout.tokens, rollout.mask
    if places is not None:
        tokens = places.gather(tokens)
    logp = vocab.features(*frozen, tokens, {"logp": vocab.logp}, **options)["logp"]
    if places is not None:
        empty = jnp.zeros(here.shape, logp.dtype), jnp.zeros_like(here)
        logp, here = places.scatter((logp, places.taken()), empty)
    old_logp = logp if rollout.old_logp is None else rollout.old_logp

    def total(logp):
        losses = surrogate_losses(log_ratios(logp, old_logp, signal.mask & here), signal, surrogate)
        return jnp.where(rollout.mask & here, losses, 0).sum()

    return jax.value_and_grad(total)(logp)


def per_token_inputs(rollout: Rollout) -> dict[str, Array]:
    """The [B, T] arrays of a rollout, extras included: what a feature may find in `row.side`. Padding holds 0: whatever lay there
    would meet a coefficient of 0 in the gradient, and 0 times NaN is NaN."""
    own = {"sampled_logp": rollout.logp, "old_logp": rollout.old_logp}
    own = {name: x for name, x in own.items() if x is not None}
    shape = rollout.tokens.shape
    found = own | {name: x for name, x in rollout.extra.items() if jnp.shape(x)[:2] == shape}
    clean = lambda x: jnp.where(rollout.mask, x, jnp.zeros_like(x)) if jnp.ndim(x) == 2 else x
    return {name: clean(x) for name, x in found.items()}
