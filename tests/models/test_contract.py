"""Products of weights and activations: the gradients of plain einsum, and no wide array turned round on a CPU."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from entjax.models.contract import contract

SPECS = [
    ("btd,dnh->bnth", (2, 3, 4), (4, 5, 6)),
    ("bnth,nhd->btd", (2, 5, 3, 6), (5, 6, 4)),
    ("bti,io->bto", (2, 3, 4), (4, 7)),
]


def inputs(x, w, dtype):
    keys = jax.random.split(jax.random.key(0), 2)
    return jax.random.normal(keys[0], x, dtype), jax.random.normal(keys[1], w, dtype)


@pytest.mark.parametrize("subscripts, x, w", SPECS)
def test_values_and_gradients_are_those_of_einsum(subscripts, x, w):
    with jax.enable_x64(True):
        arrays = inputs(x, w, jnp.float64)
        loss = lambda op: jax.value_and_grad(lambda x, w: jnp.sin(op(subscripts, x, w)).sum(), (0, 1))
        ours, theirs = loss(contract)(*arrays), loss(jnp.einsum)(*arrays)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13), ours, theirs)


def test_the_gradient_of_a_weight_leaves_wide_gradients_as_they_lie():
    """dw = x^T g with a narrow x and a wide g: no array of g's size is made beside g."""
    arrays = inputs((4, 64, 8), (8, 128), jnp.float32)
    wide = jnp.ones((4, 64, 128))

    def gradient(op):
        text = (
            jax.jit(lambda x, w, g: jax.vjp(lambda w: op("bti,io->bto", x, w), w)[1](g))
            .lower(*arrays, wide)
            .compile()
            .as_text()
        )
        return len(re.findall(r"f32\[128,256\]", text))

    assert gradient(contract) == 0
    assert gradient(jnp.einsum) > 0 or jax.__version_info__ > (0, 10, 2)
