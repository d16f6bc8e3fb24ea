"""The gradient of a weight in both orientations: what automatic differentiation asks for, and entjax.models.contract."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from benchmarks.harness import Row
from entjax.models.contract import contract

TOKENS = 4352  # of the update (a) with shared prompts: 8 x (32 + 8 x 64)


def rows(rounds=7):
    """The widening and the narrowing matrix of a layer of the 4.2M model; one row each, the floor is the bare product."""
    for name, inside, outside in (("up", 256, 1024), ("down", 1024, 256)):
        keys = jax.random.split(jax.random.key(0), 3)
        x, g = (
            jax.random.normal(key, (8, TOKENS // 8, size))
            for key, size in zip(keys, (inside, outside), strict=False)
        )
        w = jax.random.normal(keys[2], (inside, outside))

        def gradient(product, w=w, x=x, g=g):
            run = jax.jit(lambda x, w, g: jax.vjp(lambda w: product("bti,io->bto", x, w), w)[1](g)[0])
            return lambda: run(x, w, g)

        yield Row(
            f"gradient of {name}, {inside} x {outside}", "one product x^T g of float32",
            {"tokens": TOKENS, "inside": inside, "outside": outside},
            {"contract": gradient(contract), "einsum": gradient(jnp.einsum)}, "contract",
            2.0 * TOKENS * inside * outside, rounds,
        )  # fmt: skip
