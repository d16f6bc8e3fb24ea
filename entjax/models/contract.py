"""A weight applied to activations, with gradients whose products need no turning round.

    y = x w,    dx = g w^T,    dw = x^T g

Automatic differentiation writes dw as (g^T x)^T. On a CPU, which lays the left side out anew for such a product, that turns
round the widest arrays of a layer and then the result; x^T g turns round x alone.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def contract(subscripts: str, x: Array, w: Array) -> Array:
    """einsum(subscripts, x, w); no index may belong to one of the three arrays alone."""
    return jnp.einsum(subscripts, x, w)


def _forward(subscripts: str, x: Array, w: Array):
    return jnp.einsum(subscripts, x, w), (x, w)


def _backward(subscripts: str, saved: tuple[Array, Array], g: Array):
    (a, b), y = subscripts.split("->")[0].split(","), subscripts.split("->")[1]
    x, w = saved
    return jnp.einsum(f"{y},{b}->{a}", g, w), jnp.einsum(f"{a},{y}->{b}", x, g)


contract.defvjp(_forward, _backward)
