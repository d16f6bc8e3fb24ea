"""Top-n-sigma sampling: keep logits within n standard deviations of the largest (arXiv 2411.07641).

    keep v  <=>  l_v >= max l - n std(l)

The deviation is that of a sample (ddof = 1, as released) over the vocabulary. What is kept does not depend on the temperature.
Released code gives NaN where a logit is -inf; here removed and forbidden tokens do not count.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from entjax import masked, vocab
from entjax.transform import Transform


class TopNSigma(NamedTuple):
    n: Float[Array, ""]


def top_n_sigma(n: float = 1.0) -> Transform:
    """Keep tokens whose logit is at most `n` standard deviations below the largest."""
    if not n >= 0:
        raise ValueError(f"top_n_sigma() needs n >= 0, got {n}.")

    def init(logits):
        return TopNSigma(jnp.asarray(n, logits.dtype))

    return Transform("top_n_sigma", init, _update, hyper={"n": n})


def _update(logits, state, context):
    # A rule before this one may have divided by a temperature.
    sigma = masked.std(logits, logits > vocab.FORBIDDEN / 1000, axis=-1, ddof=1, keepdims=True)
    keep = logits >= jnp.max(logits, axis=-1, keepdims=True) - state.n * sigma
    return jnp.where(keep, logits, -jnp.inf), state
