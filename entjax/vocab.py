"""The vocabulary in chunks: features of logits rows, and the loss with its gradients in one sweep.

Only this file and `head_products` see it; `[B, T, V]` never exists. The sequence axis is cut into chunks of about `chunk`
tokens; a chunk's logits live only while its features are computed. Logits become float32 and -inf becomes a large negative
number before anything else, so that values and gradients stay finite with forbidden or padded vocabulary.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

from entjax import head_products
from entjax.types import wide_dtype
from entjax.unit_axes import without_unit_axes

FORBIDDEN = -1e9  # stands for -inf: exp() of it is exactly 0 and its square still fits float32
CHUNK = 2048  # tokens whose logits exist at one time
SLICE = 2**20  # logits that are worth a loop step of their own


class Chunks(NamedTuple):
    """How the vocabulary pass is cut. An int stands for Chunks(tokens=that)."""

    tokens: int = CHUNK  # whose logits exist at one time
    head_pieces: int = (
        32  # in which a CPU adds up a large head's gradient, in place; 1 where the vocabulary is sharded
    )


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


def with_slope(statistic: Callable[..., tuple[Array, Array]]) -> Callable[..., Array]:
    """The function of logits [..., V] behind `statistic(log_probs, *others) -> (value [...], d value / d logits [..., V])`;
    `others` [..., n] have no gradient.

    Automatic differentiation goes over the vocabulary once for every softmax and sum inside a statistic; its slope is one
    formula, and all of a row's statistics share one softmax. Second derivatives and forward mode work as ever.
    """

    def of_rows(logits, *others):
        result, slope = statistic(jax.nn.log_softmax(logits, axis=-1), *others)
        return result[..., None], slope

    @jax.custom_jvp
    def value(logits, *others):
        return without_unit_axes(of_rows, logits, *others)[0][..., 0]

    @value.defjvp
    def _(primals, tangents):
        result, slope = without_unit_axes(of_rows, *primals)
        return result[..., 0], jnp.sum(slope * tangents[0], axis=-1)

    return value


@with_slope
def _logp(log_probs, token):
    here = jax.lax.broadcasted_iota(token.dtype, log_probs.shape, log_probs.ndim - 1) == token
    p = jnp.exp(log_probs)
    return jnp.sum(jnp.where(here, log_probs, 0), axis=-1), jnp.where(here, 1 - p, -p)


@with_slope
def _entropy(log_probs):
    p = jnp.exp(log_probs)
    H = -jnp.sum(p * log_probs, axis=-1)
    return H, -p * (log_probs + H[..., None])


@with_slope
def _prob_sq(log_probs):
    p = jnp.exp(log_probs)
    total = jnp.sum(p**2, axis=-1)
    return total, 2 * p * (p - total[..., None])


def logp(row: Row) -> Array:
    """log p(token)."""
    return _logp(row.logits, row.token[..., None])


def entropy(row: Row) -> Array:
    """H = -sum_v p log p, in nats."""
    return _entropy(row.logits)


def prob_sq(row: Row) -> Array:
    """sum_v p^2."""
    return _prob_sq(row.logits)


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


def slice_length(batch: int, positions: int, vocabulary: int) -> int:
    """Positions of a chunk whose statistics are taken at one time: 1/16 of the chunk, but not less than SLICE numbers."""
    wanted = min(16, batch * positions * vocabulary // SLICE)
    return math.ceil(positions / max(1, wanted))


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


def _with_reference(side, reference_head, temperature) -> dict[str, Array]:
    """`side` with the reference policy's logits of the chunk, where its hidden states are given."""
    if "ref_hidden" not in side:
        return side
    with jax.named_scope("reference_logits"):
        logits = finite_logits(head_products.project(side["ref_hidden"], reference_head), temperature)
    rest = {name: x for name, x in side.items() if name != "ref_hidden"}
    return {**rest, "ref_logits": jax.lax.stop_gradient(logits)}


def features(
    hidden: Float[Array, "B T D"],
    head: Float[Array, "D V"],
    tokens: Int[Array, "B T"],
    wanted: Mapping[str, Feature],
    side: Mapping[str, Array] | None = None,
    *,
    temperature: Array | float = 1.0,
    reference_head: Array | None = None,
    chunk: int | Chunks = CHUNK,
    align: Callable[[Array], Array] = before,
) -> dict[str, Float[Array, "B T"]]:
    """The wanted features of the policy at every token; differentiable, rematerialised chunk by chunk.

    `side` holds [B, T] inputs; with "ref_hidden" [B, T, D] (aligned by `before`) and `reference_head` the features also get
    the reference policy's logits of their chunk. `align` brings hidden[:, t] to the token that it predicts; pass the identity
    when it stands there already.
    """
    if not wanted:
        return {}
    size = chunk_length(*tokens.shape, _chunks(chunk).tokens)
    pieces = _split((align(hidden), tokens, dict(side or {})), size)

    @jax.checkpoint
    def one(piece):
        h, token, extra = piece
        logits = finite_logits(head_products.project(h, head), temperature)
        row = Row(logits, token, _with_reference(extra, reference_head, temperature))
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
    chunk: int | Chunks = CHUNK,
    align: Callable[[Array], Array] = before,
) -> tuple[Float[Array, ""], Any]:
    """(sum of the per-token losses, auxiliary [B, T] arrays), with value and gradients from one pass over the chunks.

    `per_token(row) -> (loss [B, t], aux)`. Because a chunk's loss is known inside the chunk, its gradients with respect to the
    hidden states and the head are taken there and then: three matrix products, no logits kept, none computed twice.
    No gradient flows to `side`, `temperature` or `reference_head`.
    """
    chunks = _chunks(chunk)
    size = chunk_length(*tokens.shape, chunks.tokens)
    part = slice_length(tokens.shape[0], size, head.shape[1])
    cut = Cut(math.ceil(size / part) * part, part, chunks.head_pieces)
    constants = (tokens, dict(side), jnp.asarray(temperature, wide_dtype(hidden.dtype)), reference_head)
    return _sweep(per_token, cut, align(hidden), head, jax.lax.stop_gradient(constants))  # pyright: ignore


class Cut(NamedTuple):
    chunk: int  # positions of a chunk
    part: int  # positions of a slice of it
    head_pieces: int


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _sweep(per_token, cut, hidden, head, constants):
    loss, aux, _, _ = _run(per_token, cut, hidden, head, constants, gradients=False)
    return loss, aux


def _run(per_token, cut: Cut, hidden, head, constants, gradients: bool):
    tokens, side, temperature, reference_head = constants
    dtype = wide_dtype(hidden.dtype)

    def losses(logits, token, extra):
        loss, aux = per_token(Row(finite_logits(logits, temperature), token, extra))
        return loss.sum(), aux

    def one(carry, piece):
        h, token, extra = piece
        total, d_head = carry
        logits = head_products.project(h, head)
        extra = _with_reference(extra, reference_head, temperature)
        if not gradients:
            loss, aux = losses(logits, token, extra)
            return (total + loss, d_head), (aux, None)
        with jax.named_scope("vocabulary_sweep"):
            loss, aux, d_logits = _by_slices(
                jax.value_and_grad(losses, has_aux=True), cut.part, logits, (token, extra)
            )
            d_logits = d_logits.astype(h.dtype)
            d_h = head_products.back_through(d_logits, head.astype(h.dtype), dtype)
            d_head = head_products.add_gradient(d_head, h, d_logits, cut.head_pieces)
        return (total + loss, d_head), (aux, d_h.astype(h.dtype))

    start = (jnp.zeros((), dtype), jnp.zeros(head.shape, dtype) if gradients else None)
    pieces = _split((hidden, tokens, side), cut.chunk)
    if pieces[1].shape[0] == 1:
        carry, out = one(start, jax.tree.map(lambda x: x[0], pieces))
        out = jax.tree.map(lambda x: x[None], out)
    else:
        carry, out = jax.lax.scan(one, start, pieces)
    aux, d_hidden = _join(out, tokens.shape[1])
    return carry[0], aux, d_hidden, carry[1]


def _by_slices(differentiate, part: int, logits, inputs) -> tuple[Array, Any, Array]:
    """(loss, aux, d loss / d logits) of a chunk, slice after slice; the gradient takes over the memory of the logits."""
    batch, positions = logits.shape[:2]
    if part >= positions:
        (loss, aux), d_logits = differentiate(logits, *inputs)
        return loss, aux, d_logits

    def one(carry, start):
        total, logits = carry
        here = lambda x: jax.lax.dynamic_slice_in_dim(x, start, part, axis=1)
        (loss, aux), d = differentiate(here(logits), *jax.tree.map(here, inputs))
        return (total + loss, jax.lax.dynamic_update_slice_in_dim(logits, d, start, axis=1)), aux

    starts = jnp.arange(0, positions, part, dtype=jnp.int32)
    (loss, d_logits), aux = jax.lax.scan(one, (jnp.zeros((), logits.dtype), logits), starts)
    return loss, jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1).reshape(batch, positions), aux), d_logits


def _chunks(chunk: int | Chunks) -> Chunks:
    return chunk if isinstance(chunk, Chunks) else Chunks(chunk)


def _sweep_forward(per_token, cut, hidden, head, constants):
    loss, aux, d_hidden, d_head = _run(per_token, cut, hidden, head, constants, gradients=True)
    return (loss, aux), (d_hidden, d_head.astype(head.dtype))


def _sweep_backward(per_token, cut, saved, cotangent):
    g = cotangent[0]
    d_hidden, d_head = saved
    return d_hidden * g.astype(d_hidden.dtype), d_head * g.astype(d_head.dtype), None


_sweep.defvjp(_sweep_forward, _sweep_backward)
