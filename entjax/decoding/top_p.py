"""Nucleus sampling: the smallest set of most likely tokens whose probability reaches p (Holtzman et al. 2019).

    keep v  <=>  sum over u with p_u > p_v of p_u  <  p

Tokens of equal probability are kept or dropped together; where one sorts, the order of the vocabulary decides.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from entjax.decoding.select import exactly
from entjax.nucleus import nucleus
from entjax.transform import Transform


class TopP(NamedTuple):
    p: Float[Array, ""]


class _Nucleus(NamedTuple):
    min_keep: int

    def __call__(self, logits, state, context):
        log_probs = jax.nn.log_softmax(logits, axis=-1)
        keep = nucleus(log_probs, state.p) | jnp.isnan(log_probs)  # what is broken stays in sight
        keep |= state.p >= 1  # rounding may let the sum reach 1 early
        if self.min_keep > 1:
            keep |= exactly(logits, self.min_keep)
        return jnp.where(keep, logits, -jnp.inf), state


def top_p(p: float, min_keep: int = 1) -> Transform:
    """Keep the nucleus of mass `p`, and never fewer than `min_keep` tokens."""
    if not 0 < p <= 1:
        raise ValueError(f"top_p() needs 0 < p <= 1, got {p}.")
    if min_keep < 1:
        raise ValueError(f"top_p() must keep at least one token, got min_keep={min_keep}.")

    def init(logits):
        return TopP(jnp.asarray(p, logits.dtype))

    return Transform("top_p", init, _Nucleus(min_keep), hyper={"p": p, "min_keep": min_keep})
