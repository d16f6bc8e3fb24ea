"""GRPO's advantage: the reward against its group (arXiv 2402.03300).

    A_i = (R_i - mean_g R) / (std_g R + eps)            std with n - 1; `std=False` is Dr.GRPO: A_i = R_i - mean_g R

Defaults: eps 1e-6 as in verl (TRL uses 1e-4). A group of one has no baseline: it keeps its reward (verl), or gets 0 with
`singleton="zero"` (TRL). All rewards equal gives 0.
"""

from __future__ import annotations

import jax.numpy as jnp

from entjax import masked
from entjax.transform import Transform, stateless


def group_normalize(*, std: bool = True, eps: float = 1e-6, singleton: str = "keep") -> Transform:
    """GRPO; with std=False Dr.GRPO."""
    if singleton not in ("keep", "zero"):
        raise ValueError(f"singleton must be 'keep' or 'zero', got {singleton!r}.")

    def f(signal, context):
        reward, group = signal.reward, context.rollout.group
        alone = masked.group_count(group) == 1
        mean, spread = masked.group_mean(reward, group), masked.group_std(reward, group, ddof=1)
        if singleton == "keep":
            mean, spread = jnp.where(alone, 0, mean), jnp.where(alone, 1, spread)
        advantage = (reward - mean) / (spread + eps) if std else reward - mean
        return signal.replace(advantage=masked.keep(advantage[:, None], signal.mask))

    return stateless("group_normalize", f, writes={"advantage"}, owns={"baseline"})
