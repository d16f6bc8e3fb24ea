"""The three products of hidden states, logits and the head, as a CPU does them best where the head is large.

logits = h W,    d_h = d_logits W^T,    d_W = h^T d_logits
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from entjax.types import wide_dtype

LARGE = 2**20  # numbers in a head that a CPU does not turn round, nor make the gradient of in one piece


def project(hidden, head) -> Float[Array, "B t V"]:
    """Logits in at least float32; the head is used in the type of the hidden states."""
    with jax.named_scope("logits"):
        return jnp.einsum(
            "btd,dv->btv", hidden, head.astype(hidden.dtype), preferred_element_type=wide_dtype(hidden.dtype)
        )


def back_through(d_logits: Float[Array, "B t V"], head, dtype) -> Float[Array, "B t D"]:
    """d_logits head^T. A CPU lays the right side of such a product out anew: there a large head stands on the left, and about
    32 tokens are taken at a time, so that what is laid out anew is small."""
    batch, positions = d_logits.shape[:2]
    part = max(n for n in range(1, positions + 1) if positions % n == 0 and (n == 1 or n * batch <= 32))

    def in_parts(d_logits, head):
        def one(start):
            d = jax.lax.dynamic_slice_in_dim(d_logits, start, part, axis=1)
            return jax.lax.dot_general(head, d, (((1,), (2,)), ((), ())), preferred_element_type=dtype)

        parts = jax.lax.map(one, jnp.arange(0, positions, part, dtype=jnp.int32))
        return jnp.moveaxis(parts, (0, 1), (1, 3)).reshape(batch, positions, -1)

    whole = lambda d, head: jnp.einsum("btv,dv->btd", d, head, preferred_element_type=dtype)
    if head.size < LARGE:
        return whole(d_logits, head)
    return jax.lax.platform_dependent(d_logits, head, cpu=in_parts, default=whole)


def add_gradient(total: Float[Array, "D V"], hidden, d_logits, pieces: int) -> Float[Array, "D V"]:
    """total + hidden^T d_logits. A CPU would make the product as an array of its own and then add it, which for a large head
    is most of the memory of the pass: there it is added in place, some columns of the head at a time."""
    product = lambda d: jnp.einsum("btd,btv->dv", hidden, d, preferred_element_type=total.dtype)
    width = -(-total.shape[1] // pieces)
    whole = total.shape[1] // width

    def in_place(total, d_logits):
        def one(i, total):
            cut = lambda x, axis: jax.lax.dynamic_slice_in_dim(x, i * width, width, axis)
            return jax.lax.dynamic_update_slice_in_dim(
                total, cut(total, 1) + product(cut(d_logits, 2)), i * width, 1
            )

        total = jax.lax.fori_loop(0, whole, one, total)
        rest = whole * width
        return total if rest == total.shape[1] else total.at[:, rest:].add(product(d_logits[..., rest:]))

    if pieces == 1 or total.size < LARGE:
        return total + product(d_logits)
    return jax.lax.platform_dependent(
        total, d_logits, cpu=in_place, default=lambda total, d_logits: total + product(d_logits)
    )
