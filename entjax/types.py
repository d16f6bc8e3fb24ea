"""The three structs that everything passes around: Rollout (what happened), Signal (what the loss will do), Context.

Letters: B sequences, T tokens, V vocabulary, D width. Index t always describes token `tokens[:, t]`.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int, Key


def wide_dtype(dtype: Any) -> Any:
    """At least float32: the type of statistics over values of `dtype` (booleans and integers count as float32)."""
    # Not jnp.promote_types, which refuses to mix floats under strict promotion.
    return dtype if jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits >= 32 else jnp.float32


@struct.dataclass
class Rollout:
    """What happened. Never modified by a transform.

    A row with `group < 0` is filler (it pads the batch to a round number, or was given up): it belongs to no group and nothing
    of it counts, whatever its mask says.
    `extra` holds inputs of single methods ("ref_logp", "cluster", "turn", "phase", ...), each with leading axis B.

        tokens    prompt and completion, right-padded
        mask      True on tokens that the policy sampled: not on the prompt, a tool's output, padding
        logp      of each token under the policy that sampled it, as the sampler computed it; None: nobody kept it
        entropy   of that policy at each token, in nats
        old_logp  the same policy's log-prob by the trainer's graph, of which ratios are made; None: not scored, and the policy
                  has not moved since
        reward    one a row; group: rows of one prompt have one id
    """

    tokens: Int[Array, "B T"]
    mask: Bool[Array, "B T"]
    logp: Float[Array, "B T"] | None
    entropy: Float[Array, "B T"]
    old_logp: Float[Array, "B T"] | None
    reward: Float[Array, " B"]
    group: Int[Array, " B"]
    extra: dict[str, Any] = struct.field(default_factory=dict)
    temperature: Float[Array, ""] | float = 1.0

    def rows(self, select) -> Rollout:
        """The same rollout with `select` applied to every array that has a batch axis."""
        batch = self.tokens.shape[0]
        pick = lambda x: select(x) if jnp.ndim(x) > 0 and x.shape[0] == batch else x
        return jax.tree.map(pick, self)

    def as_sampled(self) -> Array:
        """`logp`, or a sentence where nobody kept it."""
        if self.logp is None:
            raise ValueError(
                "A transform looks at the log-probs as the sampler computed them, and rollout.logp is None: keep them, or leave "
                "the transform out."
            )
        return self.logp

    def without_filler(self) -> Rollout:
        """The same rollout with an empty mask on filler, which others may have left there."""
        return self.replace(mask=self.mask & (self.group >= 0)[:, None])


@struct.dataclass
class Signal:
    """What the loss will do with every token; no gradient flows through it.

    loss = sum(scale * -weight * surrogate) + sum over k of sum(own_scale.get(k, scale) * coef[k] * feature[k])
    """

    reward: Float[Array, " B"]
    advantage: Float[Array, "B T"]
    weight: Float[Array, "B T"]  # multiplies the surrogate only; 0 drops the token, the denominator stays
    clip_low: Float[Array, "B T"]  # ratio bounds, e.g. 0.8 and 1.2
    clip_high: Float[Array, "B T"]
    mask: Bool[Array, "B T"]  # tokens that count in averages; starts as rollout.mask
    scale: Float[Array, "B T"]  # averaging weights (token mean, sequence mean ...)
    coef: dict[str, Float[Array, "B T"]] = struct.field(default_factory=dict)
    own_scale: dict[str, Float[Array, "B T"]] = struct.field(default_factory=dict)
    knobs: dict[str, Float[Array, ""]] = struct.field(default_factory=dict)
    metrics: dict[str, Float[Array, ""]] = struct.field(default_factory=dict)

    @classmethod
    def start(cls, rollout: Rollout) -> Signal:
        """The Signal of a rollout before any transform: the reward on every completion token, PPO's 0.8 to 1.2, token mean."""
        if rollout.mask.dtype != bool:
            raise TypeError(f"rollout.mask must be boolean (mask.astype(bool)), got {rollout.mask.dtype}.")
        mask = rollout.without_filler().mask
        dtype = wide_dtype(rollout.reward.dtype)
        reward = rollout.reward.astype(dtype)
        ones = mask.astype(dtype)
        return cls(
            reward=reward,
            advantage=reward[:, None] * ones,
            weight=jnp.ones_like(ones),
            clip_low=jnp.full_like(ones, 0.8),
            clip_high=jnp.full_like(ones, 1.2),
            mask=mask,
            scale=ones / jnp.maximum(ones.sum(), 1),
        )

    def add_term(self, name: str, coef: Array, own_scale: Array | None = None) -> Signal:
        """Add `coef` to the coefficient of the feature `name`; `own_scale` replaces the surrogate's averaging weights for it."""
        if name in self.coef:
            before, scale = self.coef[name], self.own_scale.get(name)
            if (scale is None) != (own_scale is None):
                raise ValueError(
                    f"Two transforms of a chain add to the term '{name}', one of them with averaging weights of its own: "
                    "give both the same average, or keep one."
                )
            if scale is None or own_scale is None:
                coef = before + coef
            else:  # two averages of one feature: scale_1 coef_1 + scale_2 coef_2, with a scale of 1
                coef, own_scale = scale * before + own_scale * coef, jnp.ones_like(own_scale)
        scales = self.own_scale if own_scale is None else {**self.own_scale, name: own_scale}
        return self.replace(coef={**self.coef, name: coef}, own_scale=scales)

    def note(self, context: Context, **metrics: Array) -> Signal:
        """Record metrics as "<transform>/<what>"."""
        named = {f"{context.name}/{what}": value for what, value in metrics.items()}
        return self.replace(metrics={**self.metrics, **named})


@struct.dataclass
class Context:
    """What a transform may look at beside the Signal.

    `stats` holds the features asked for by `reads` (no gradient). `step` counts the updates of the chain, `key` is its
    randomness for this step; a chain hands every member a key of its own.
    """

    rollout: Rollout
    stats: Mapping[str, Float[Array, "B T"]] = struct.field(default_factory=dict)
    step: Int[Array, ""] | int = 0
    key: Key[Array, ""] | None = None
    name: str = struct.field(pytree_node=False, default="")

    def enter(self, name: str) -> Context:
        """The context as the transform `name` sees it: its own name and a key that no other transform gets."""
        key = (
            None if self.key is None else jax.random.fold_in(self.key, zlib.crc32(name.encode()) & 0x7FFFFFFF)
        )
        return self.replace(name=name, key=key)

    def random_key(self) -> Array:
        """The key, or a sentence when the caller gave none."""
        if self.key is None:
            raise ValueError(
                f"'{self.name}' draws random numbers: pass Context(..., key=jax.random.key(seed))."
            )
        return self.key
