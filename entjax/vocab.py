"""The only code that sees the vocabulary: features of logits rows in chunks, and the loss with its gradients in one sweep.

`[B, T, V]` never exists. The sequence axis is cut into chunks of about `chunk` tokens; a chunk's logits live only while its
features are computed. Logits become float32 and -inf becomes a large negative number before anything else, so that values
and gradients stay finite with forbidden or padded vocabulary.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

from entjax.types import wide_dtype

FORBIDDEN = -1e9  # stands for -inf: exp() of it is exactly 0 and its square still fits float32
CHUNK = 2048  # tokens whose logits exist at one time


@struct.dataclass
class Row:
    """What a feature sees: the policy at some positions. `logits` are divided by the temperature, float32 and finite."""

    logits: Float[Array, "... V"]
    token: Int[Array, ...]  # the token that was sampled there
    side: Mapping[str, Array] = struct.field(
        default_factory=dict
    )  # per-token inputs: old_logp, ref_logp, ref_logits ...

    @property
    def log_probs(self) -> Float[Array, "... V"]:
        return jax.nn.log_softmax(self.logits, axis=-1)

    @property
    def probs(self) -> Float[Array, "... V"]:
        return jax.nn.softmax(self.logits, axis=-1)

    def pick(self, x: Float[Array, "... V"]) -> Float[Array, ...]:
        """x at the sampled token; a masked sum, so that a vocabulary-sharded x needs no gather."""
        index = jax.lax.broadcasted_iota(jnp.int32, x.shape, x.ndim - 1)
        return jnp.sum(jnp.where(index == self.token[..., None], x, 0), axis=-1)


Feature = Callable[[Row], Array]


def finite_logits(logits: Array, temperature: Array | float = 1.0) -> Float[Array, "... V"]:
    """logits / temperature in at least float32, -inf replaced by a finite number."""
    logits = logits.astype(wide_dtype(logits.dtype))
    logits = logits / jnp.asarray(temperature, logits.dtype)
    return jnp.where(logits > FORBIDDEN, logits, jnp.where(jnp.isnan(logits), jnp.nan, FORBIDDEN))


# Features ----------------------------------------------------------------------------------------------------------------


def logp(row: Row) -> Array:
    """log p(token)."""
    return row.pick(row.log_probs)


def entropy(row: Row) -> Array:
    """H = -sum_v p log p, in nats."""
    return -jnp.sum(row.probs * row.log_probs, axis=-1)


def prob_sq(row: Row) -> Array:
    """sum_v p^2."""
    return jnp.sum(row.probs**2, axis=-1)


def prob_sq_logp(row: Row) -> Array:
    """sum_v p^2 log p."""
    return jnp.sum(row.probs**2 * row.log_probs, axis=-1)


def max_prob(row: Row) -> Array:
    """max_v p."""
    return jnp.max(row.probs, axis=-1)


def ratio(row: Row) -> Array:
    """exp(logp - old_logp)."""
    return jnp.exp(jnp.clip(logp(row) - row.side["old_logp"], -20, 20))


def needs_reference_logits(feature: Feature) -> Feature:
    """Mark a feature that reads `row.side["ref_logits"]`, the reference policy's logits at the same positions."""
    feature.needs_reference_logits = True
    return feature


def reads_reference_logits(features: Mapping[str, Feature]) -> bool:
    """True when one of the features was marked by `needs_reference_logits`."""
    return any(getattr(f, "needs_reference_logits", False) for f in features.values())


# Positions and chunks ------------------------------------------------------------------------------------------------------


def before(hidden: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
    """The hidden state that predicts tokens[:, t], at index t. The shift by one happens here and nowhere else.

    Nothing predicts the first token of a row: its entry is 0 and its mask must be False.
    """
    return jnp.concatenate([jnp.zeros_like(hidden[:, :1]), hidden[:, :-1]], axis=1)


def chunk_length(batch: int, length: int, chunk: int) -> int:
    """Positions per chunk so that batch * positions is about `chunk`, in equal pieces."""
    pieces = max(1, min(length, math.ceil(batch * length / chunk)))
    return math.ceil(length / pieces)


def _split(tree: Any, size: int) -> Any:
    """Every [B, T, ...] leaf as [pieces, B, size, ...], padded with zeros."""

    def split(x):
        pieces = math.ceil(x.shape[1] / size)
        padded = jnp.pad(x, [(0, 0), (0, pieces * size - x.shape[1])] + [(0, 0)] * (x.ndim - 2))
        return jnp.moveaxis(padded.reshape(x.shape[0], pieces, size, *x.shape[2:]), 1, 0)

    return jax.tree.map(split, tree)


def _join(tree: Any, length: int) -> Any:
    """The inverse of `_split`."""

    def join(x):
        whole = jnp.moveaxis(x, 0, 1)
        return whole.reshape(whole.shape[0], -1, *whole.shape[3:])[:, :length]

    return jax.tree.map(join, tree)


def _row(hidden, head, tokens, side, temperature, reference_head) -> Row:
    project = lambda h, w: finite_logits(
        jnp.einsum("btd,dv->btv", h, w, preferred_element_type=_accumulator(h)), temperature
    )
    if "ref_hidden" in side:
        with jax.named_scope("reference_logits"):
            side = {**side, "ref_logits": jax.lax.stop_gradient(project(side["ref_hidden"], reference_head))}
    with jax.named_scope("logits"):
        return Row(project(hidden, head), tokens, side)


def _accumulator(x: Array):
    return wide_dtype(x.dtype)


def features(
    hidden: Float[Array, "B T D"],
    head: Float[Array, "D V"],
    tokens: Int[Array, "B T"],
    wanted: Mapping[str, Feature],
    side: Mapping[str, Array] | None = None,
    *,
    temperature: Array | float = 1.0,
    reference_head: Array | None = None,
    chunk: int = CHUNK,
) -> dict[str, Float[Array, "B T"]]:
    """The wanted features of the policy at every token; differentiable, rematerialised chunk by chunk.

    `side` holds [B, T] inputs; with "ref_hidden" [B, T, D] (aligned by `before`) and `reference_head` the features also get
    the reference policy's logits of their chunk.
    """
    if not wanted:
        return {}
    size = chunk_length(*tokens.shape, chunk)
    pieces = _split((before(hidden), tokens, dict(side or {})), size)

    @jax.checkpoint
    def one(piece):
        h, token, extra = piece
        row = _row(h, head, token, extra, temperature, reference_head)
        return {name: feature(row) for name, feature in wanted.items()}

    if pieces[1].shape[0] == 1:
        return _join(
            jax.tree.map(lambda x: x[None], one(jax.tree.map(lambda x: x[0], pieces))), tokens.shape[1]
        )
    return _join(jax.lax.map(one, pieces), tokens.shape[1])


# One sweep -----------------------------------------------------------------------------------------------------------------


def sweep(
    per_token: Callable[[Row], tuple[Array, Any]],
    hidden: Float[Array, "B T D"],
    head: Float[Array, "D V"],
    tokens: Int[Array, "B T"],
    side: Mapping[str, Any],
    *,
    temperature: Array | float = 1.0,
    reference_head: Array | None = None,
    chunk: int = CHUNK,
) -> tuple[Float[Array, ""], Any]:
    """(sum of the per-token losses, auxiliary [B, T] arrays), with value and gradients from one pass over the chunks.

    `per_token(row) -> (loss [B, t], aux)`. Because a chunk's loss is known inside the chunk, its gradients with respect to the
    hidden states and the head are taken there and then: three matrix products, no logits kept, none computed twice.
    No gradient flows to `side`, `temperature` or `reference_head`.
    """
    size = chunk_length(*tokens.shape, chunk)
    constants = (tokens, dict(side), jnp.asarray(temperature, jnp.float32), reference_head)
    return _sweep(per_token, size, before(hidden), head, jax.lax.stop_gradient(constants))  # pyright: ignore


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _sweep(per_token, size, hidden, head, constants):
    loss, aux, _, _ = _run(per_token, size, hidden, head, constants, gradients=False)
    return loss, aux


def _run(per_token, size, hidden, head, constants, gradients: bool):
    tokens, side, temperature, reference_head = constants
    dtype = _accumulator(hidden)

    def chunk_loss(h, w, token, extra):
        loss, aux = per_token(_row(h, w, token, extra, temperature, reference_head))
        return loss.sum(), aux

    def one(carry, piece):
        h, token, extra = piece
        total, d_head = carry
        if not gradients:
            loss, aux = chunk_loss(h, head, token, extra)
            return (total + loss, d_head), (aux, None)
        with jax.named_scope("vocabulary_sweep"):
            (loss, aux), (d_h, d_w) = jax.value_and_grad(chunk_loss, argnums=(0, 1), has_aux=True)(
                h, head, token, extra
            )
        return (total + loss, d_head + d_w.astype(dtype)), (aux, d_h)

    start = (jnp.zeros((), dtype), jnp.zeros(head.shape, dtype) if gradients else None)
    pieces = _split((hidden, tokens, side), size)
    if pieces[1].shape[0] == 1:
        carry, out = one(start, jax.tree.map(lambda x: x[0], pieces))
        out = jax.tree.map(lambda x: x[None], out)
    else:
        carry, out = jax.lax.scan(one, start, pieces)
    aux, d_hidden = _join(out, tokens.shape[1])
    return carry[0], aux, d_hidden, carry[1]


def _sweep_forward(per_token, size, hidden, head, constants):
    loss, aux, d_hidden, d_head = _run(per_token, size, hidden, head, constants, gradients=True)
    return (loss, aux), (d_hidden, d_head.astype(head.dtype))


def _sweep_backward(per_token, size, saved, cotangent):
    g = cotangent[0]
    d_hidden, d_head = saved
    return d_hidden * g.astype(d_hidden.dtype), d_head * g.astype(d_head.dtype), None


_sweep.defvjp(_sweep_forward, _sweep_backward)
