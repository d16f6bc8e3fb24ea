"""RLOO: every reward against the mean of the others in its group (arXiv 2402.14740).

    A_i = R_i - 1/(n-1) sum_{j != i} R_j = n/(n-1) (R_i - mean_g R)

`normalize=True` subtracts the mean over the batch and divides by its std (n - 1) + eps, as TRL's option does (eps 1e-4). A
group of one keeps its reward (verl), or gets 0 with `singleton="zero"` (verl's vectorised function).
"""

from __future__ import annotations

import jax.numpy as jnp

from entjax import masked
from entjax.advantages.returns import is_alone, on_tokens
from entjax.transform import Transform, tunable


def leave_one_out(*, normalize: bool = False, eps: float = 1e-4, singleton: str = "keep") -> Transform:
    """RLOO."""
    if singleton not in ("keep", "zero"):
        raise ValueError(f"singleton must be 'keep' or 'zero', got {singleton!r}.")
    if eps < 0:
        raise ValueError(f"eps must be >= 0, got {eps}.")

    def f(signal, context, *, eps, **_):
        reward, group = signal.reward, context.rollout.group
        n = masked.group_count(group, reward.dtype)
        advantage = n / jnp.maximum(n - 1, 1) * (reward - masked.group_mean(reward, group))
        advantage = jnp.where(is_alone(group), reward if singleton == "keep" else 0, advantage)
        if normalize:
            advantage = masked.standardize(advantage, group >= 0, ddof=1, eps=eps)
        return signal.replace(advantage=on_tokens(advantage, signal.mask))

    hyper = {"normalize": normalize, "eps": eps, "singleton": singleton}
    return tunable("leave_one_out", f, hyper, writes={"advantage"}, owns={"baseline"})
