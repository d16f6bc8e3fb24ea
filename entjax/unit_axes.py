"""Functions along the last axis, spared the axes of length one.

A CPU (jax 0.10) takes some 16 times as long for a sum of products over [1, T, D] or [T, 1, D] as over [T, D]
(`entjax bench products`). Such sums are what differentiates a softmax, a norm or a quotient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax


def without_unit_axes(f: Callable, *arrays: jax.Array) -> Any:
    """f(*arrays), where arrays [..., n] and results [..., m] share all axes but the last, which f treats alike."""
    lead = arrays[0].shape[:-1]
    kept = tuple(n for n in lead if n > 1)
    out = f(*(x.reshape(*kept, x.shape[-1]) for x in arrays))
    return jax.tree.map(lambda x: x.reshape(*lead, x.shape[-1]), out)
