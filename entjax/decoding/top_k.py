"""Top-k sampling: keep the k most likely tokens (Fan et al. 2018), with those that equal the k-th."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Int

from entjax.decoding.select import largest
from entjax.transform import Transform


class TopK(NamedTuple):
    k: Int[Array, ""]


def top_k(k: int) -> Transform:
    """Keep the `k` largest logits; k above the vocabulary keeps all."""
    if isinstance(k, bool) or k != int(k) or k < 1:
        raise ValueError(f"top_k() needs a whole number of tokens from 1, got {k}.")

    def init(logits):
        return TopK(jnp.asarray(int(k), jnp.int32))

    return Transform("top_k", init, _update, hyper={"k": k})


def _update(logits, state, context):
    return jnp.where(largest(logits, state.k), logits, -jnp.inf), state
