"""Locally typical sampling: the tokens whose surprise is closest to the entropy (Meister et al. 2022, arXiv 2202.00666).

    s_v = |-log p_v - H|;  keep the smallest set {v: s_v <= s} whose probability reaches `mass`

The most likely token may go: of a skewed distribution it is less surprising than is typical. Equal s stand or fall together.
The paper uses mass 0.2 (stories) and 0.95 (summaries).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from entjax.decoding.select import entropy_of, exactly, top
from entjax.transform import Transform


class Typical(NamedTuple):
    mass: Float[Array, ""]


class _TypicalSet(NamedTuple):
    min_keep: int

    def __call__(self, logits, state, context):
        logp = jax.nn.log_softmax(logits, axis=-1)
        probs = jnp.exp(logp)
        closeness = -jnp.abs(-logp - entropy_of(probs)[:, None])
        keep = top(closeness, lambda inside: jnp.sum(jnp.where(inside, probs, 0), axis=-1) >= state.mass)
        if self.min_keep > 1:
            keep |= exactly(closeness, self.min_keep)
        return jnp.where(keep, logits, -jnp.inf), state


def typical(mass: float, min_keep: int = 1) -> Transform:
    """Keep the typical set of probability `mass`, and never fewer than `min_keep` tokens."""
    if not 0 < mass < 1:
        raise ValueError(f"typical() needs 0 < mass < 1, got {mass}.")
    if min_keep < 1:
        raise ValueError(f"typical() must keep at least one token, got min_keep={min_keep}.")

    def init(logits):
        return Typical(jnp.asarray(mass, logits.dtype))

    return Transform("typical", init, _TypicalSet(min_keep), hyper={"mass": mass, "min_keep": min_keep})
