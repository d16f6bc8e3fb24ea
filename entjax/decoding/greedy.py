"""Greedy decoding: only the most likely token stays, the first of them in a tie."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from entjax.transform import Transform


def mode_only(logits: Float[Array, "B V"]) -> Float[Array, "B V"]:
    """The logits with -inf everywhere but at the mode."""
    column = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 1)
    mode = jnp.argmax(logits, axis=-1).astype(jnp.int32)
    return jnp.where(column == mode[:, None], logits, -jnp.inf)


def greedy() -> Transform:
    """Keep the mode. The recorded policy statistics stay those of the full distribution."""
    return Transform("greedy", lambda logits: (), _update)


def _update(logits, state, context):
    return mode_only(logits), state
