"""Epsilon sampling: keep tokens of at least a fixed probability (Hewitt et al. 2022, arXiv 2210.15191).

    keep v  <=>  p_v >= epsilon

The most likely token always stays; with `min_keep` at least so many, ties included.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from entjax.decoding.select import at_least
from entjax.transform import Transform


class Epsilon(NamedTuple):
    epsilon: Float[Array, ""]


class _Floor(NamedTuple):
    min_keep: int

    def __call__(self, logits, state, context):
        keep = jax.nn.softmax(logits, axis=-1) >= state.epsilon
        return jnp.where(keep | at_least(logits, self.min_keep), logits, -jnp.inf), state


def epsilon(value: float, min_keep: int = 1) -> Transform:
    """Keep tokens of probability `value` and more, and the `min_keep` most likely ones in any case."""
    if not 0 <= value <= 1:
        raise ValueError(f"epsilon() needs 0 <= value <= 1, got {value}.")
    if min_keep < 1:
        raise ValueError(f"epsilon() must keep at least one token, got min_keep={min_keep}.")

    def init(logits):
        return Epsilon(jnp.asarray(value, logits.dtype))

    return Transform("epsilon", init, _Floor(min_keep), hyper={"value": value, "min_keep": min_keep})
