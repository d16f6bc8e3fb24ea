"""ARES' difficulty buckets and their controller (arXiv 2510.08457, code shawn0728/ARES).

    easy: group accuracy >= 2/3,   medium: >= 1/3,   hard: below
    target_d = round(mean of N over the bucket's prompts),   alpha_d += lr (mean - target)           hard: the opposite sign

alpha stays in [0, 2] and starts at 0.5, lr 0.05; a bucket without prompts keeps both numbers, its target starts at -1. As in the
released code the target comes from this very batch, so alpha moves by the rounding remainder only (half rounds to even).
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num

from entjax import masked

BUCKETS = 3


class Buckets(NamedTuple):
    """One number for easy, medium and hard prompts each."""

    target: Float[Array, " 3"]
    alpha: Float[Array, " 3"]


def start_buckets(alpha: float = 0.5) -> Buckets:
    """Before any batch."""
    return Buckets(jnp.full(BUCKETS, -1.0, jnp.float32), jnp.full(BUCKETS, alpha, jnp.float32))


def difficulty(accuracy: Float[Array, " B"], group: Int[Array, " B"]) -> Int[Array, " B"]:
    """0 easy, 1 medium, 2 hard, from the mean accuracy of the row's group."""
    mean = masked.group_mean(accuracy, group)
    return jnp.where(mean >= 2 / 3 - 1e-6, 0, jnp.where(mean >= 1 / 3 - 1e-6, 1, 2)).astype(jnp.int32)


def update_buckets(
    state: Buckets,
    accuracy: Float[Array, " B"],
    n_high: Num[Array, " B"],
    group: Int[Array, " B"],
    lr: float = 0.05,
) -> Buckets:
    """The controller's state after a batch."""
    n_high = masked.wide(n_high)
    first = (group >= 0) & (masked.group_rank(jnp.zeros_like(n_high), group) == 0)  # a prompt counts once
    inside = first[:, None] & (difficulty(accuracy, group)[:, None] == jnp.arange(BUCKETS)[None, :])
    per_prompt = jnp.broadcast_to(masked.group_mean(n_high, group)[:, None], inside.shape)
    mean = masked.mean(per_prompt, inside, axis=0).astype(jnp.float32)
    seen = inside.any(axis=0)
    target = jnp.where(seen, jnp.round(mean), state.target)
    sign = jnp.asarray([1.0, 1.0, -1.0], jnp.float32)
    moved = jnp.clip(state.alpha + lr * sign * (mean - target), 0, 2)
    return Buckets(target, jnp.where(seen, moved, state.alpha))
