"""Frozen matrices as whole numbers of eight bits, with one scale for each output (weight-only, symmetric).

    W ~ q s,    s_o = max_i |W_io| / 127,    q = round(W / s)

Half the memory of bfloat16, and half the bytes that a decoding step reads. The scale is rounded to the compute type before q is
taken, so that its rounding is no error of W.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

SCALE = "_scale"  # behind the name of the matrix
LARGEST = 127


def scale_of(matrix: Array | np.ndarray, summed: int, dtype: jnp.dtype) -> Array | np.ndarray:
    """s [outputs...] of W [inputs..., outputs...], `summed` of its axes are inputs; 1 for an output without weights."""
    most = abs(matrix).max(axis=tuple(range(summed))).astype(np.float32)
    return jnp.where(most > 0, most / LARGEST, 1.0).astype(dtype)


def rounded(matrix: Array | np.ndarray, scale: Array | np.ndarray) -> Array:
    """q of W."""
    found = jnp.rint(jnp.asarray(matrix, jnp.float32) / jnp.asarray(scale, jnp.float32))
    return jnp.clip(found, -LARGEST, LARGEST).astype(jnp.int8)


def restored(q: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """q s in float32."""
    return np.asarray(q, np.float32) * np.asarray(scale, np.float32)
