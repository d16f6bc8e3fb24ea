"""Losses on given text, and one training step with them: decide on the whole batch, then differentiate row by row.

    loss = sum over tokens of per_token(row),   row.side holds what `weigh` decided from the mask and the statistics

The batch may be worked solutions (SFT), a teacher's samples or the student's own: a loss does not know who wrote the text. As in
the policy step, `[B, T, V]` never exists and the number of microbatches does not change the result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from entjax import masked, vocab
from entjax.models.lora import split, together
from entjax.passes import in_pieces, split_rows
from entjax.transform import NOTHING
from entjax.types import wide_dtype
from entjax.vocab import Feature, Row

Decision = dict[str, Float[Array, "B T"]]


class TextLoss(NamedTuple):
    """One loss: `weigh(mask, stats) -> {name: [B, T]}` outside the gradient, `per_token(row) -> [B, t]` inside it."""

    name: str
    weigh: Callable[[Bool[Array, "B T"], Mapping[str, Array]], Decision]
    per_token: Callable[[Row], Array]
    reads: Mapping[str, Feature] = NOTHING  # features of the model, no gradient -> stats
    teacher: bool = False  # wants row.side["ref_logits"], a teacher's logits at the same positions
    hyper: Mapping[str, Any] = NOTHING


def token_mean(mask: Bool[Array, "B T"], stats: Mapping[str, Array]) -> Decision:
    """The usual average: every valid token weighs 1 / n."""
    return {"weight": masked.wide(mask) / jnp.maximum(masked.count(mask), 1)}


def sequence_mean(mask: Bool[Array, "B T"], stats: Mapping[str, Array]) -> Decision:
    """Sums over tokens, averaged over the rows that have any."""
    return {"weight": masked.wide(mask) / jnp.maximum(masked.count(mask.any(-1)), 1)}


class Text(NamedTuple):
    """A model's view of the batch: hidden states and head, as the models give them."""

    hidden: Float[Array, "B T D"]
    head: Float[Array, "D V"]


def decide(
    loss: TextLoss,
    text: Text,
    tokens: Int[Array, "B T"],
    mask: Bool[Array, "B T"],
    *,
    teacher: Text | None = None,
    chunk: int = vocab.CHUNK,
) -> Decision:
    """What the loss will do with every token of the batch; no gradient."""
    return jax.lax.stop_gradient(loss.weigh(mask, _read(loss, text, tokens, teacher, chunk)))


def loss_of_text(
    loss: TextLoss,
    text: Text,
    tokens: Int[Array, "B T"],
    mask: Bool[Array, "B T"],
    decision: Decision,
    *,
    teacher: Text | None = None,
    chunk: int = vocab.CHUNK,
) -> Float[Array, ""]:
    """The loss of some rows under a decision; its value and gradients come from one sweep over the vocabulary."""
    side, options = _side(teacher)

    def per_token(row):
        return jnp.where(row.side["mask"], loss.per_token(row), 0), ()

    side = {**decision, "mask": mask, **side}
    return vocab.sweep(per_token, *text, tokens, side, chunk=chunk, **options)[0]


def make_text_step(
    model: nnx.Module,
    loss: TextLoss,
    optimizer: optax.GradientTransformation,
    *,
    teacher: nnx.Module | None = None,
    microbatches: int = 1,
    chunk: int = vocab.CHUNK,
) -> Callable:
    """step(params, opt_state, tokens, mask, teacher_params=None) -> (params, opt_state, loss); the first two are donated, the
    second is optimizer.init(models.lora.split(params)[0]).

    `teacher` gives the structure of a teacher, which may be any model over the same vocabulary.
    """
    if loss.teacher and teacher is None:
        raise ValueError(
            f"The loss '{loss.name}' compares with a teacher: make_text_step(..., teacher=model)."
        )
    view = _viewer(model)
    teacher_view = _viewer(teacher) if loss.teacher else lambda params, tokens: None

    def step(params, opt_state, tokens, mask, teacher_params=None):
        batch = tokens.shape[0]
        seen = lambda tokens: jax.lax.stop_gradient(teacher_view(teacher_params, tokens))

        def read(tokens):
            return _read(loss, view(params, tokens), tokens, seen(tokens), chunk)

        stats = in_pieces(read, tokens, batch, microbatches) if loss.reads else {}
        decision = jax.lax.stop_gradient(loss.weigh(mask, stats))

        trained, frozen = split(params)

        def value(trained, tokens, mask, decision):
            text = view(together(trained, frozen), tokens)
            return loss_of_text(loss, text, tokens, mask, decision, teacher=seen(tokens), chunk=chunk)

        total, grads = _gradients(value, trained, (tokens, mask, decision), batch, microbatches)
        with jax.numpy_dtype_promotion("standard"):  # optax mixes int and float counts
            changes, opt_state = optimizer.update(grads, opt_state, trained)
            return together(optax.apply_updates(trained, changes), frozen), opt_state, total

    return jax.jit(step, donate_argnums=(0, 1))


def _gradients(value: Callable, params: Any, rows: Any, batch: int, microbatches: int) -> tuple[Array, Any]:
    """(value, gradients in the parameters) as sums over microbatches, held in at least float32."""
    differentiate = jax.value_and_grad(value)
    if microbatches == 1:
        return differentiate(params, *rows)
    shapes = jax.eval_shape(differentiate, params, *rows)
    start = jax.tree.map(lambda x: jnp.zeros(x.shape, wide_dtype(x.dtype)), shapes)

    def add(total, piece):
        new = differentiate(params, *piece)
        return jax.tree.map(lambda a, b: a + b.astype(a.dtype), total, new), None

    (total, grads), _ = jax.lax.scan(add, start, split_rows(rows, batch, microbatches))
    return total, jax.tree.map(lambda g, p: g.astype(p.dtype), grads, params)


def _viewer(model: nnx.Module) -> Callable[[Any, Array], Text]:
    graphdef, _ = nnx.split(model)

    def view(params, tokens):
        merged = nnx.merge(graphdef, params)
        return Text(merged(tokens), merged.head())

    return view


def _read(loss: TextLoss, text: Text, tokens: Array, teacher: Text | None, chunk: int) -> dict[str, Array]:
    side, options = _side(teacher)
    frozen = jax.lax.stop_gradient(text)
    return vocab.features(*frozen, tokens, loss.reads, side, chunk=chunk, **options)


def _side(teacher: Text | None) -> tuple[dict[str, Array], dict[str, Array]]:
    if teacher is None:
        return {}, {}
    return {"ref_hidden": vocab.before(teacher.hidden)}, {"reference_head": teacher.head}
