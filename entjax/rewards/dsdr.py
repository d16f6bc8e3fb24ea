"""DSDR, global part: correct answers that differ from the others of their group earn more (arXiv 2602.19895).

    R_i <- R_i + lambda_d clip(d_i, 0, sigma_d) 1[R_i = 1],   d_i = (D_emb_i + D_eq_i) / 2
    D_emb_i = mean_{j != i} (1 - z_i . z_j) / 2,   D_eq_i = |S_i without the S_j of others| / |S_i|

z: unit embeddings of the answers, S: sets of their formulas. d comes in extra["diversity"] [B]; `diversity` computes it.
Default lambda_d 1e-3; sigma_d is not given in the text, 1 is ours. With std-normalised advantages a uniform group turns this tiny
bonus into advantages of order 1; filter groups by accuracy, not by this reward.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from entjax import masked
from entjax.control import Controller, Target
from entjax.transform import Transform, is_dynamic, tunable


def diversity(
    embeddings: Float[Array, "B E"], formulas: Bool[Array, "B F"], group: Int[Array, " B"]
) -> Float[Array, " B"]:
    """d before clipping; a term without partners, or without formulas, is 0."""
    length = jnp.sqrt(jnp.sum(embeddings**2, axis=1, keepdims=True))
    z = embeddings / jnp.where(length > 0, length, 1)
    index = jnp.arange(group.shape[0])
    others = masked.same_group(group) & (index[:, None] != index[None, :])
    cosine = jnp.einsum("ie,je->ij", z, z, precision=jax.lax.Precision.HIGHEST)
    of_embedding = masked.mean((1 - cosine) / 2, others, axis=1)
    elsewhere = jnp.any(others[:, :, None] & formulas[None, :, :], axis=1)
    of_formulas = masked.mean(~elsewhere, formulas.astype(bool), axis=1)
    return (of_embedding + of_formulas.astype(of_embedding.dtype)) / 2


def dsdr(lambda_d: Target | Controller = 1e-3, *, sigma_d: float = 1.0, correct: float = 1.0) -> Transform:
    """Diversity bonus for answers with reward >= `correct`; needs extra["diversity"]."""
    if not is_dynamic(lambda_d) and lambda_d < 0:
        raise ValueError(f"lambda_d must be >= 0, got {lambda_d}.")
    if not sigma_d > 0:
        raise ValueError(f"sigma_d must be greater than 0, got {sigma_d}.")

    def f(signal, context, *, lambda_d, **_):
        dtype = signal.reward.dtype
        d = jnp.clip(context.rollout.extra["diversity"], 0, sigma_d).astype(dtype)
        bonus = jnp.where(context.rollout.reward >= correct, jnp.asarray(lambda_d, dtype) * d, 0)
        return signal.replace(reward=signal.reward + bonus)

    hyper = {"lambda_d": lambda_d, "sigma_d": sigma_d, "correct": correct}
    return tunable("dsdr", f, hyper, needs={"diversity"}, writes={"reward"})
