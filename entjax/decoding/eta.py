"""Eta sampling: epsilon sampling whose floor falls where the distribution is flat (Hewitt et al. 2022, arXiv 2210.15191).

    keep v  <=>  p_v >= min(epsilon, sqrt(epsilon) exp(-H))

H is the entropy of the logits as they come, in nats. The most likely token always stays.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from entjax.decoding.select import at_least, entropy_of
from entjax.transform import Transform


class Eta(NamedTuple):
    epsilon: Float[Array, ""]


class _Floor(NamedTuple):
    min_keep: int

    def __call__(self, logits, state, context):
        probs = jax.nn.softmax(logits, axis=-1)
        floor = jnp.minimum(state.epsilon, jnp.sqrt(state.epsilon) * jnp.exp(-entropy_of(probs)))
        keep = (probs >= floor[:, None]) | at_least(logits, self.min_keep)
        return jnp.where(keep, logits, -jnp.inf), state


def eta(epsilon: float, min_keep: int = 1) -> Transform:
    """Keep tokens above the entropy-dependent floor, and the `min_keep` most likely ones in any case."""
    if not 0 < epsilon <= 1:
        raise ValueError(f"eta() needs 0 < epsilon <= 1, got {epsilon}.")
    if min_keep < 1:
        raise ValueError(f"eta() must keep at least one token, got min_keep={min_keep}.")

    def init(logits):
        return Eta(jnp.asarray(epsilon, logits.dtype))

    return Transform("eta", init, _Floor(min_keep), hyper={"epsilon": epsilon, "min_keep": min_keep})
