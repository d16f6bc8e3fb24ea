"""One weight a sequence: the geometric mean of its tokens' weights, as GMPO uses importance weights.

    w_b = exp(mean_t log(w_bt + 1e-10))

Put it after `importance` when the surrogate is `gmpo`, whose value belongs to the sequence (verl).
"""

from __future__ import annotations

import jax.numpy as jnp

from entjax import masked
from entjax.transform import Transform, stateless


def geometric_mean() -> Transform:
    """Replace the weights of a row by their geometric mean."""

    def f(signal, context):
        logs = jnp.log(jnp.where(signal.mask, signal.weight, 1) + 1e-10)
        weight = jnp.exp(masked.mean(logs, signal.mask, axis=1, keepdims=True))
        return signal.replace(
            weight=jnp.where(signal.mask, weight, signal.weight).astype(signal.weight.dtype)
        )

    return stateless("geometric_mean", f, writes={"weight"})
