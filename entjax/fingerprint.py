"""Fingerprints of arrays, JSON values and of the code: what was written is what is read back, to the last bit.

    f(x) = sum_i mix(bits(x_i) xor 2654435761 i)  mod 2^32
    mix:   h ^= h >> 16;  h *= 0x85EBCA6B;  h ^= h >> 13;  h *= 0xC2B2AE35;  h ^= h >> 16        (MurmurHash3's last step)

Integers: exact in any order, hence the same on every mesh, and computed where the array lies. mix can be undone, so a change of
one element always changes f; longer damage escapes with a chance of about 2^-32 an array.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt32

KNUTH = np.uint32(2654435761)


@jax.jit
def _all(arrays: list[Array]) -> list[UInt32[Array, ""]]:
    return [_one(x) for x in arrays]


def fingerprints(arrays: Mapping[str, Array]) -> dict[str, int]:
    """The fingerprint of every array."""
    names = sorted(arrays)
    return dict(zip(names, map(int, jax.device_get(_all([arrays[name] for name in names]))), strict=True))


def _one(x: Array) -> UInt32[Array, ""]:
    bits = jax.lax.bitcast_convert_type(x.astype(jnp.uint8) if x.dtype == bool else x, _unsigned(x.dtype))
    words = bits.astype(jnp.uint32)
    index = jnp.zeros(words.shape, jnp.uint32)
    for axis, size in enumerate(words.shape):  # of the whole array, also where it is cut over devices
        stride = np.uint32(math.prod(words.shape[axis + 1 :]) % 2**32)
        index = index + jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis) * stride if size else index
    return jnp.sum(_mix(words ^ (index * KNUTH)), dtype=jnp.uint32)


def _mix(h: Array) -> Array:
    h = (h ^ (h >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    h = (h ^ (h >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return h ^ (h >> np.uint32(16))


def _unsigned(dtype: Any) -> Any:
    """8 bytes become two words."""
    return {1: jnp.uint8, 2: jnp.uint16}.get(np.dtype(dtype).itemsize, jnp.uint32)


def digest(value: Any) -> str:
    """A hash of a JSON value that does not depend on the order of its keys."""
    text = json.dumps(json.loads(json.dumps(value)), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def versions() -> dict[str, str]:
    """What the last digits of a run depend on: JAX, its compiler, and the text of this package."""
    import jaxlib

    text = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        text.update(path.read_bytes())
    return {"jax": jax.__version__, "jaxlib": jaxlib.__version__, "entjax": text.hexdigest()[:12]}
