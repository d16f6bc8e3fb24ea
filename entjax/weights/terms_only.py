"""No policy gradient: what is left of the loss are its differentiable terms (distillation, pure entropy minimisation).

    w_it = 0

The tokens stay in the averages, which divide the terms as before.
"""

from __future__ import annotations

import jax.numpy as jnp

from entjax.transform import Transform, stateless


def terms_only() -> Transform:
    """Weight 0 for every token."""
    drop = lambda signal, context: signal.replace(weight=jnp.zeros_like(signal.weight))
    return stateless("terms_only", drop, writes={"weight"})
