"""Token-level returns that several advantages share: where the reward sits, sums of what is still to come, whitening.

An observation hole is a masked stretch inside a completion (a tool's answer). "stop": a return does not cross it (verl's
REINFORCE++); "skip": it crosses as if the hole were not there.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from entjax import masked

HOLES = ("stop", "skip")


def token_rewards(signal, context, kl: float = 0.0) -> Float[Array, "B T"]:
    """r_it: the reward on the row's last valid token, minus kl (old_logp - ref_logp) on every valid token."""
    mask, rollout = signal.mask, context.rollout
    remaining = jnp.cumsum(mask[:, ::-1].astype(jnp.int32), axis=1)[:, ::-1]
    reward = masked.keep(signal.reward[:, None], mask & (remaining == 1))
    if kl == 0:
        return reward
    return reward - kl * masked.gap(rollout.old_logp, rollout.extra["ref_logp"], mask).astype(reward.dtype)


def backward(factor: Float[Array, "B T"], x: Float[Array, "B T"]) -> Float[Array, "B T"]:
    """y_t = x_t + factor_t y_{t+1}, 0 after the end."""

    def combine(later, earlier):
        return later[0] * earlier[0], earlier[1] + earlier[0] * later[1]

    return jax.lax.associative_scan(combine, (factor, x), reverse=True, axis=1)[1]


def following(x: Float[Array, "B T"]) -> Float[Array, "B T"]:
    """x at the next index, 0 after the end."""
    return jnp.pad(x[:, 1:], ((0, 0), (0, 1)))


def reward_to_go(
    reward: Float[Array, "B T"], mask: Bool[Array, "B T"], gamma: float = 1.0, holes: str = "skip"
) -> Float[Array, "B T"]:
    """G_t = r_t + gamma G_{t+1}."""
    if holes == "stop":
        return backward(gamma * following(mask.astype(reward.dtype)), reward)
    return backward(jnp.where(mask, gamma, 1.0).astype(reward.dtype), masked.keep(reward, mask))


def whiten(x: Float[Array, "B T"], mask: Bool[Array, "B T"]) -> Float[Array, "B T"]:
    """(x - mean) / sqrt(var + 1e-8) over the valid tokens, var with n - 1; 0 outside the mask."""
    spread = jnp.sqrt(masked.var(x, mask, ddof=1) + 1e-8)
    return masked.centred(x, mask) / spread


def is_alone(group: Array) -> Bool[Array, " B"]:
    """True for a row that is the only one of its group."""
    return masked.group_count(group) == 1


def on_tokens(advantage: Float[Array, " B"], mask: Bool[Array, "B T"]) -> Float[Array, "B T"]:
    """A sequence's number at every valid token of it."""
    return masked.keep(advantage[:, None], mask)


def check_holes(holes: str) -> None:
    """Refuse a name that is not in HOLES."""
    if holes not in HOLES:
        raise ValueError(f"holes must be one of {HOLES}, got {holes!r}.")
