"""What a CPU is slow at, and what entjax does instead: the gradient of a weight in both orientations (entjax.models.contract),
and sums of products over arrays with an axis of length one (entjax.unit_axes)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from benchmarks.harness import Row
from entjax.models.contract import contract
from entjax.unit_axes import without_unit_axes

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

    shape = (1, 16384, 128)
    a, b = (jax.random.normal(key, shape) for key in keys[:2])
    total = lambda a, b: jnp.sum(a * b, axis=-1, keepdims=True)

    def sums(f):
        run = jax.jit(f)
        return lambda: run(a, b)

    yield Row(
        "sum of products, 1 x 16384 x 128", "float32", {"shape": shape},
        {"without the 1": sums(lambda a, b: without_unit_axes(total, a, b)), "with it": sums(total)},
        "without the 1", 0.0, rounds,
    )  # fmt: skip
