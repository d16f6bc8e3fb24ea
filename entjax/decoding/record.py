"""A rule that changes nothing and remembers, per row, the likeliest tokens of the policy at every position it samples.

The memory is part of the sampler's state (`state.rules["record"]`), so it follows forks and cuts of rows.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

from entjax.transform import Transform


@struct.dataclass
class Record:
    """Entry i belongs to the i-th token behind the prompt; log-probs are not renormalised over the k."""

    tokens: Int[Array, "B L k"]
    logp: Float[Array, "B L k"]


def record(k: int, length: int) -> Transform:
    """Remember the `k` likeliest tokens at the first `length` positions behind the prompt."""
    if k < 1 or length < 1:
        raise ValueError(f"record() needs k >= 1 and length >= 1, got k={k}, length={length}.")

    def init(logits):
        rows, vocab = logits.shape
        shape = (rows, length, min(k, vocab))
        return Record(jnp.zeros(shape, jnp.int32), jnp.zeros(shape, logits.dtype))

    return Transform("record", init, _update, hyper={"k": k, "length": length})


def _update(logits, state, context):
    logp, tokens = jax.lax.top_k(context.logp, state.tokens.shape[-1])
    put = jax.vmap(lambda memory, index, values: memory.at[index].set(values, mode="drop"))
    new = Record(put(state.tokens, context.index, tokens), put(state.logp, context.index, logp))
    return logits, new
