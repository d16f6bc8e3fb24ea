"""One random key per sequence, from names instead of places, so that the layout of a batch cannot matter."""

from __future__ import annotations

import jax
from jaxtyping import Array, Int, Key


@jax.jit
def sequence_keys(
    key: Key[Array, ""], step, prompt: Int[Array, " N"], sample: Int[Array, " N"]
) -> Key[Array, " N"]:
    """A key for each (step, prompt id, sample id); `fold_in` of a token's position makes it the key of that token."""
    base = jax.random.fold_in(key, step)
    name = lambda p, s: jax.random.fold_in(jax.random.fold_in(base, p), s)
    return jax.vmap(name)(prompt, sample)
