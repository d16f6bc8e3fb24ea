"""GRPO's advantage: the reward against its group (arXiv 2402.03300).

    A_i = (R_i - mean_g R) / (std R + eps)              std with n - 1; `std=False` is Dr.GRPO: A_i = R_i - mean_g R

Defaults: eps 1e-6 as in verl (TRL uses 1e-4). A group of one has no baseline: it keeps its reward (verl), or gets 0 with
`singleton="zero"` (TRL). `scope="batch"` takes one std over all rows (TRL's scale_rewards="batch"); `variance_floor=1e-6` is
verl's vectorised function. All rewards equal gives exactly 0.
"""

from __future__ import annotations

import math

import jax.numpy as jnp

from entjax import masked
from entjax.advantages.returns import is_alone, on_tokens
from entjax.transform import Transform, tunable


def group_normalize(
    *,
    std: bool = True,
    eps: float = 1e-6,
    singleton: str = "keep",
    scope: str = "group",
    variance_floor: float = 0.0,
) -> Transform:
    """GRPO; with std=False Dr.GRPO."""
    if singleton not in ("keep", "zero"):
        raise ValueError(f"singleton must be 'keep' or 'zero', got {singleton!r}.")
    if scope not in ("group", "batch"):
        raise ValueError(f"scope must be 'group' or 'batch', got {scope!r}.")
    if eps < 0 or variance_floor < 0:
        raise ValueError(
            f"eps and variance_floor must be >= 0, got eps={eps}, variance_floor={variance_floor}."
        )

    def spread_of(reward, group, alone):
        if scope == "batch":
            return masked.std(reward, group >= 0, ddof=1)
        spread = jnp.maximum(masked.group_std(reward, group, ddof=1), math.sqrt(variance_floor))
        return jnp.where(alone, 1, spread) if singleton == "keep" else spread

    def f(signal, context, *, eps, **_):
        reward, group = signal.reward, context.rollout.group
        alone = is_alone(group)
        mean = masked.group_mean(reward, group)
        if singleton == "keep":
            mean = jnp.where(alone, 0, mean)
        advantage = reward - mean
        if std:
            spread = spread_of(reward, group, alone) + eps
            advantage = advantage / jnp.where(spread > 0, spread, 1)
        return signal.replace(advantage=on_tokens(advantage, signal.mask))

    hyper = {"std": std, "eps": eps, "singleton": singleton, "scope": scope, "variance_floor": variance_floor}
    return tunable("group_normalize", f, hyper, writes={"advantage"}, owns={"baseline"})
