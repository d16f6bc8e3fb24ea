"""Where does training change the policy? Divergences of base and trained model ("Sparse but Critical", arXiv 2603.22446).

    JS = (KL(p || m) + KL(q || m)) / 2,  m = (p + q) / 2, in [0, ln 2];      a token switches where JS > eps (0.1: "high")

Features of a row whose `logits` are the trained policy's and whose "ref_logits" are the base model's, for `vocab.features`. Over
the whole vocabulary; the paper may truncate to top-p first. With `features.reverse_kl` and `forward_kl` beside them this is the
paper's list; its advantage weights are `advantages.divergence_weights`.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from entjax.decoding.select import exactly
from entjax.vocab import Feature, Row, needs_reference_logits


@needs_reference_logits
def jensen_shannon(row: Row) -> Float[Array, ...]:
    """JS divergence in nats."""
    log_p, log_q = row.log_probs, jax.nn.log_softmax(row.side["ref_logits"], axis=-1)
    log_m = jnp.logaddexp(log_p, log_q) - jnp.log(2.0).astype(log_p.dtype)
    one = lambda log_x: jnp.sum(jnp.exp(log_x) * (log_x - log_m), axis=-1)
    return jnp.maximum(0.5 * (one(log_p) + one(log_q)), 0)


@functools.cache
def top_k_overlap(k: int) -> Feature:
    """The share of the k most likely tokens that both models have in common."""
    if k < 1:
        raise ValueError(f"top_k_overlap needs k >= 1, got {k}.")

    @needs_reference_logits
    def feature(row: Row) -> Float[Array, ...]:
        flat = lambda x: x.reshape(-1, x.shape[-1])
        both = exactly(flat(row.logits), k) & exactly(flat(row.side["ref_logits"]), k)
        return (jnp.sum(both, axis=-1) / k).astype(row.logits.dtype).reshape(row.logits.shape[:-1])

    return feature


@needs_reference_logits
def rank_in_base(row: Row) -> Float[Array, ...]:
    """How many tokens the base model prefers to the trained policy's favourite; 0 where they agree."""
    base = row.side["ref_logits"]
    column = jax.lax.broadcasted_iota(jnp.int32, base.shape, base.ndim - 1)
    favourite = column == jnp.argmax(row.logits, axis=-1)[..., None].astype(jnp.int32)
    level = jnp.sum(jnp.where(favourite, base, 0), axis=-1, keepdims=True)
    return jnp.sum(base > level, axis=-1).astype(base.dtype)


def switched(js: Float[Array, "B T"], mask: Bool[Array, "B T"], eps: float = 0.1) -> Bool[Array, "B T"]:
    """The tokens at which the two policies differ."""
    return mask & (js > eps)
