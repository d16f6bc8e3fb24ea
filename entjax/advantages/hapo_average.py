"""HAPO's token-level group average (arXiv 2509.16591): every token of the group counts, so long answers weigh more.

    A_i = (R_i - mu) / (sigma + 1e-6),   mu, sigma over the valid tokens of the group (divisor n);   `std=False`: A_i = R_i - mu

A group in which some |A| >= `fallback` uses GRPO's advantage instead (over rows, divisor n - 1, a single row keeps its
reward). Defaults: the authors' code. That code also lets the padding of a group take part in the test, with reward 0, so that
results depend on padding: `variant="released"`.
"""

from __future__ import annotations

import jax.numpy as jnp

from entjax import masked
from entjax.transform import Transform, stateless


def hapo_average(
    *, std: bool = True, eps: float = 1e-6, fallback: float = 5.0, variant: str = "paper"
) -> Transform:
    """Group baseline over tokens; equal lengths give GRPO with divisor n."""
    if variant not in ("paper", "released"):
        raise ValueError(f"variant must be 'paper' or 'released', got {variant!r}.")
    if not fallback > 0:
        raise ValueError(f"hapo_average needs fallback > 0, got {fallback}.")

    def f(signal, context):
        mask, group = signal.mask, context.rollout.group
        top = masked.group_max(signal.reward, group)
        reward = signal.reward - top  # equal rewards become exact zeros, whatever the rounding of a mean
        length = masked.count(mask, axis=1, dtype=reward.dtype)
        tokens = jnp.maximum(masked.group_total(length, group), 1)
        mu = masked.group_total(length * reward, group) / tokens
        sigma = jnp.sqrt(masked.group_total(length * (reward - mu) ** 2, group) / tokens)
        spread = sigma + eps if std else jnp.ones_like(sigma)
        advantage = (reward - mu) / spread
        largest = masked.group_max(jnp.where(length > 0, jnp.abs(advantage), 0), group)
        if variant == "released":
            padded = masked.group_max(jnp.any(~mask, axis=1), group) > 0
            largest = jnp.maximum(largest, jnp.where(padded, jnp.abs(top + mu) / spread, 0))
        extreme = largest >= fallback
        advantage = jnp.where(extreme, _grpo(signal.reward, group, std, eps), advantage)
        signal = signal.note(context, fallback=masked.mean(extreme, group >= 0))
        return signal.replace(advantage=masked.keep(advantage[:, None], mask))

    return stateless("hapo_average", f, writes={"advantage"}, owns={"baseline"})


def _grpo(reward, group, std: bool, eps: float):
    alone = masked.group_count(group) == 1
    centred = reward - jnp.where(alone, 0, masked.group_mean(reward, group))
    return centred / (jnp.where(alone, 1, masked.group_std(reward, group, ddof=1)) + eps) if std else centred
