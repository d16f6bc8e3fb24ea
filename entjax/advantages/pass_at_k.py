"""Pass@k advantage: only the best answer of a group gets credit, its lead over the second best (verl's GRPO_PASSK).

    A_(1) = (R_(1) - R_(2)) / (std_g R + eps),   0 for the others            std with n - 1; `std=False` leaves it out

Default eps 1e-6 (verl). A tie for the best gives 0 to all. A group of one gets 0 (verl refuses it).
"""

from __future__ import annotations

import jax.numpy as jnp

from entjax import masked
from entjax.advantages.returns import on_tokens
from entjax.transform import Transform, tunable


def pass_at_k(*, std: bool = True, eps: float = 1e-6) -> Transform:
    """Credit for the best of the group only."""
    if eps < 0:
        raise ValueError(f"eps must be >= 0, got {eps}.")

    def f(signal, context, *, eps, **_):
        reward, group = signal.reward, context.rollout.group
        n = masked.group_count(group, jnp.int32)
        rank = masked.group_rank(reward, group)
        second = masked.group_total(jnp.where(rank == n - 2, reward, 0), group)
        lead = jnp.where((rank == n - 1) & (n > 1), reward - second, 0)
        if std:
            spread = masked.group_std(reward, group, ddof=1) + eps
            lead = lead / jnp.where(spread > 0, spread, 1)
        return signal.replace(advantage=on_tokens(lead, signal.mask))

    return tunable("pass_at_k", f, {"std": std, "eps": eps}, writes={"advantage"}, owns={"baseline"})
