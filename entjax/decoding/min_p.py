"""Min-p sampling: keep tokens at least p times as likely as the most likely one (Nguyen et al. 2024).

    keep v  <=>  p_v >= p * max_u p_u  <=>  logit_v - max_u logit_u >= log p

The second form needs no softmax.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from entjax.decoding.select import exactly
from entjax.transform import Transform


class MinP(NamedTuple):
    p: Float[Array, ""]


class _Floor(NamedTuple):
    min_keep: int

    def __call__(self, logits, state, context):
        keep = logits - jnp.max(logits, axis=-1, keepdims=True) >= jnp.log(state.p)
        if self.min_keep > 1:
            keep |= exactly(logits, self.min_keep)
        return jnp.where(keep, logits, -jnp.inf), state


def min_p(p: float, min_keep: int = 1) -> Transform:
    """Keep tokens with at least `p` times the highest probability, and never fewer than `min_keep` tokens."""
    if not 0 <= p <= 1:
        raise ValueError(f"min_p() needs 0 <= p <= 1, got {p}.")
    if min_keep < 1:
        raise ValueError(f"min_p() must keep at least one token, got min_keep={min_keep}.")

    def init(logits):
        return MinP(jnp.asarray(p, logits.dtype))

    return Transform("min_p", init, _Floor(min_keep), hyper={"p": p, "min_keep": min_keep})
