"""OPO: the variance-minimising baseline of on-policy REINFORCE, a length-weighted group mean (arXiv 2505.23585).

    A_i = R_i - sum_j L_j R_j / sum_j L_j            j over the group, L_j the number of valid tokens

A group of one keeps its reward (verl).
"""

from __future__ import annotations

import jax.numpy as jnp

from entjax import masked
from entjax.advantages.returns import is_alone, on_tokens
from entjax.transform import Transform, stateless


def opo() -> Transform:
    """On-policy RL with the optimal reward baseline."""

    def f(signal, context):
        group = context.rollout.group
        top = masked.group_max(signal.reward, group)
        reward = signal.reward - top  # so that the mean of equal rewards does not round
        length = masked.count(signal.mask, axis=1, dtype=reward.dtype)
        total = masked.group_total(length, group)
        baseline = masked.group_total(length * reward, group) / jnp.maximum(total, 1)
        advantage = reward - jnp.where(is_alone(group), -top, baseline)
        return signal.replace(advantage=on_tokens(advantage, signal.mask))

    return stateless("opo", f, writes={"advantage"}, owns={"baseline"})
