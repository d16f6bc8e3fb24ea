"""Token mean: every valid token of the batch weighs the same (DAPO, arXiv 2503.14476).

    scale_it = m_it / sum m

`tokens` fixes the denominator: the token count of a larger batch of which this one is a part, or a constant.
"""

from __future__ import annotations

import jax.numpy as jnp

from entjax import masked
from entjax.transform import Transform, tunable


def token_mean(*, tokens: int | None = None) -> Transform:
    """DAPO's average; one long sequence weighs as much as its tokens."""
    if tokens is not None and not tokens > 0:
        raise ValueError(f"token_mean(tokens=...) is a denominator and must be positive, got {tokens}.")

    def f(signal, context, *, tokens):
        ones = signal.mask.astype(signal.scale.dtype)
        n = jnp.maximum(masked.count(signal.mask, dtype=ones.dtype), 1) if tokens is None else tokens
        return signal.replace(scale=ones / jnp.asarray(n, ones.dtype))

    return tunable("token_mean", f, {"tokens": tokens}, writes={"scale"}, owns={"scale"})
