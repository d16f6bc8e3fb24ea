"""Frozen matrices as whole numbers of eight bits, with one scale for each output (weight-only, symmetric).

    W ~ q s,    s_o = max_i |W_io| / 127,    q = round(W / s)

Half the memory of bfloat16, and half the bytes that a decoding step reads. The scale is rounded to the compute type before q is
taken, so that its rounding is no error of W.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

SCALE = "_scale"  # behind the name of the matrix
LARGEST = 127


def scale_of(matrix: Any, summed: int, dtype: Any) -> Any:
    """s [outputs...] of W [inputs..., outputs...], `summed` of its axes are inputs; 1 for an output without weights.

    NumPy's arrays stay on the host, where the same numbers come out whatever the devices.
    """
    most = abs(matrix).max(axis=tuple(range(summed))).astype("float32")
    return _of(matrix).where(most == 0, 1.0, most / np.float32(LARGEST)).astype(dtype)


def rounded(matrix: Any, scale: Any) -> Any:
    """q of W."""
    found = _of(matrix).rint(matrix.astype("float32") / scale.astype("float32"))
    return found.clip(-LARGEST, LARGEST).astype("int8")


def restored(q: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """q s in float32."""
    return np.asarray(q, np.float32) * np.asarray(scale, np.float32)


def _of(matrix: Any) -> Any:
    return np if isinstance(matrix, np.ndarray) else jnp
