"""GPG: group policy gradient without std, rescaled by the share of informative rewards (arXiv 2504.02546).

    A_i = B / #{R != 0} (R_i - mean_g R) / f_norm

B counts the rows of the batch, the count of non-zero rewards is at least 1. Default f_norm = 1 (verl, which ignores its alpha
argument and computes B / #{R != 0} itself). A group of one keeps its reward. Goes with `surrogates.reinforce`.
"""

from __future__ import annotations

import jax.numpy as jnp

from entjax import masked
from entjax.advantages.returns import is_alone, on_tokens
from entjax.transform import Transform, tunable


def gpg(*, f_norm: float = 1.0) -> Transform:
    """Group policy gradient."""
    if not f_norm > 0:
        raise ValueError(f"f_norm must be greater than 0, got {f_norm}.")

    def f(signal, context, *, f_norm):
        reward, group = signal.reward, context.rollout.group
        rows = masked.count(group >= 0, dtype=reward.dtype)
        nonzero = masked.count((group >= 0) & (reward != 0), dtype=reward.dtype)
        centred = reward - jnp.where(is_alone(group), 0, masked.group_mean(reward, group))
        advantage = rows / jnp.maximum(nonzero, 1) * centred / f_norm
        return signal.replace(advantage=on_tokens(advantage, signal.mask))

    return tunable("gpg", f, {"f_norm": f_norm}, writes={"advantage"}, owns={"baseline"})
