"""One row of logits at a time: the policy's log-prob and entropy, what the decoding rules leave of it, and the draw."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from entjax import vocab
from entjax.models.config import wide

CHUNK = 512  # tokens per block of the two-level draw


def next_logits(hidden: Float[Array, "B D"], head: Float[Array, "D V"], temperature: Float[Array, " B"]):
    """The policy's logits [B, V]: hidden @ head / temperature in at least float32, forbidden tokens finite."""
    logits = jnp.einsum(
        "bd,dv->bv", hidden, head.astype(hidden.dtype), preferred_element_type=wide(hidden.dtype)
    )
    return vocab.finite_logits(logits, temperature[:, None])


class Distribution(NamedTuple):
    """softmax(logits) of B rows, from one exponential of each logit:

    m = max_v l,   e = exp(l - m),   z = sum_v e,   log p = l - m - log z,   H = log z - sum_v e (l - m) / z
    """

    below: Float[Array, "B V"]  # l - m
    mass: Float[Array, "B V"]  # e
    log_total: Float[Array, " B"]  # log z
    entropy: Float[Array, " B"]  # in nats; a token with logit -inf adds nothing

    @classmethod
    def of(cls, logits: Float[Array, "B V"]) -> Distribution:
        below = logits - jnp.max(logits, axis=-1, keepdims=True)
        mass = jnp.exp(below)
        total = jnp.sum(mass, axis=-1)
        log_total = jnp.log(total)
        mean = jnp.sum(mass * jnp.where(mass > 0, below, 0), axis=-1) / total
        return cls(below, mass, log_total, log_total - mean)

    @property
    def log_probs(self) -> Float[Array, "B V"]:
        return self.below - self.log_total[:, None]

    def log_prob(self, token: Int[Array, " B"]) -> Float[Array, " B"]:
        """Of one token a row."""
        return jnp.take_along_axis(self.below, token[:, None], axis=1)[:, 0] - self.log_total


def draw(key: Key[Array, " B"], mass: Float[Array, "B V"]) -> Int[Array, " B"]:
    """One token per row from its own key: first a block of the vocabulary by its mass, then a token inside the block.

    Two uniform numbers a row instead of V Gumbel variates (thirty times less work for V = 49,152), each used at one level,
    so that rare tokens keep their probability where one number would round it. Tokens without mass are never drawn.
    """
    rows, size = mass.shape
    width = min(size, CHUNK)
    blocks = -(-size // width)
    mass = jnp.pad(mass, ((0, 0), (0, blocks * width - size))).reshape(rows, blocks, width)
    uniform = jax.vmap(lambda k: jax.random.uniform(k, (2,), mass.dtype))(key)
    block = _invert(mass.sum(axis=-1), uniform[:, 0])
    inside = jnp.take_along_axis(mass, block[:, None, None], axis=1)[:, 0]
    return block * width + _invert(inside, uniform[:, 1])


def _invert(mass: Float[Array, "B N"], uniform: Float[Array, " B"]) -> Int[Array, " B"]:
    """The first index with mass where the running sum exceeds uniform * total."""
    total = jnp.cumsum(mass, axis=-1)
    found = (total > uniform[:, None] * total[:, -1:]) & (mass > 0)
    # Rounding may leave no such index; then the heaviest one.
    first, heaviest = _first(found), _first(mass == jnp.max(mass, axis=-1, keepdims=True))
    return jnp.where(first < mass.shape[-1], first, heaviest)


def _first(flags: Bool[Array, "B N"]) -> Int[Array, " B"]:
    """The index of the first True, N where there is none: a minimum, which a CPU finds faster than argmax does."""
    size = flags.shape[-1]
    return jnp.min(jnp.where(flags, jnp.arange(size, dtype=jnp.int32)[None], size), axis=-1)
