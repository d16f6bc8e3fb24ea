"""Top-H decoding: the most likely tokens up to a share of the entropy (arXiv 2509.02510).

    q = the 100 most likely tokens, renormalised;  keep the longest prefix with  -sum q log q <= h H(q)

The first token always stays. Default h = 0.4 (paper); the 100 is transformers' and bounds the cost.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import entr
from jaxtyping import Array, Float

from entjax.transform import Transform


class TopH(NamedTuple):
    h: Float[Array, ""]


class _Share(NamedTuple):
    candidates: int

    def __call__(self, logits, state, context):
        best, token = jax.lax.top_k(logits, min(self.candidates, logits.shape[-1]))
        used = jnp.cumsum(entr(jax.nn.softmax(best, axis=-1)), axis=-1)
        inside = (used <= state.h * used[:, -1:]).at[:, 0].set(True)
        put = jax.vmap(lambda at, value: jnp.zeros(logits.shape[-1], bool).at[at].set(value))
        return jnp.where(put(token, inside), logits, -jnp.inf), state


def top_h(h: float = 0.4, candidates: int = 100) -> Transform:
    """Keep the tokens that hold the share `h` of the entropy of the `candidates` most likely ones."""
    if not 0 < h <= 1:
        raise ValueError(f"top_h() needs 0 < h <= 1, got {h}.")
    if candidates < 1:
        raise ValueError(f"top_h() needs at least one candidate, got candidates={candidates}.")

    def init(logits):
        return TopH(jnp.asarray(h, logits.dtype))

    return Transform("top_h", init, _Share(candidates), hyper={"h": h, "candidates": candidates})
