"""Passes over the policy: hidden states and features of rows, or of the places of a pack, microbatch by microbatch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.extend.core import Literal
from jaxtyping import Array

from entjax import vocab
from entjax.loss import Objective, per_token_inputs
from entjax.packing import Pack, Places
from entjax.types import Context, Rollout, Signal
from entjax.vocab import Chunks, Feature


def forward(graphdef, params, rollout: Rollout, places: Places | None = None) -> tuple[Array, Array]:
    """(hidden states, head [D, V]) of the model with these parameters: [B, T, D], or at these places."""
    model = nnx.merge(graphdef, params)
    with jax.named_scope("backbone"):
        hidden = model(rollout.tokens) if places is None else places.hidden(model, rollout.tokens)
        return hidden, model.head()


def aligned(hidden: Array, places: Places | None) -> Array:
    """Hidden states that predict the token of their index; those at places do already."""
    return vocab.before(hidden) if places is None else hidden


def policy_features(
    graphdef,
    params,
    reference,
    rollout: Rollout,
    wanted: dict,
    chunk: int | Chunks,
    places: Places | None = None,
    teacher=None,
) -> dict[str, Array]:
    """Features of the policy, without gradient: at every token [B, T], or at these places. `teacher`: the
    structure of the reference policy; None: that of the policy."""
    hidden, head = forward(graphdef, params, rollout, places)
    tokens, side, reference_head = rollout.tokens, per_token_inputs(rollout), None
    if places is not None:
        tokens, side = places.gather((tokens, side))
    if reference is not None and vocab.reads_reference_logits(wanted):
        reference_hidden, reference_head = forward(teacher or graphdef, reference, rollout, places)
        side["ref_hidden"] = aligned(reference_hidden, places)
    return vocab.features(
        aligned(hidden, places), head, tokens, wanted, side,
        temperature=rollout.temperature, reference_head=reference_head, chunk=chunk, align=lambda h: h,
    )  # fmt: skip


def split_rows(tree: Any, batch: int, pieces: int) -> Any:
    """Every [B, ...] leaf as [pieces, B / pieces, ...], row i going to piece i % pieces: with B sharded over devices every
    device keeps its own rows, nothing is gathered. Other leaves are repeated."""

    def split(x):
        if jnp.ndim(x) > 0 and x.shape[0] == batch:
            return jnp.swapaxes(x.reshape(batch // pieces, pieces, *x.shape[1:]), 0, 1)
        return jnp.broadcast_to(x, (pieces, *jnp.shape(x)))

    return jax.tree.map(split, tree)


def join_rows(tree: Any) -> Any:
    """The inverse of `split_rows` for [pieces, rows, ...] leaves."""
    return jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:]), tree)


def in_pieces(f: Callable[[Any], Any], tree: Any, batch: int, pieces: int) -> Any:
    """f(tree) on `pieces` parts of the rows, one after another; its [rows, ...] results joined."""
    if pieces == 1:
        return f(tree)
    return join_rows(jax.lax.map(f, split_rows(tree, batch, pieces)))


def over_microbatches(
    f: Callable[[Rollout, Places | None], Any], rollout: Rollout, pieces: int, pack: Pack | None = None
) -> Any:
    """f(rows, places) on `pieces` parts of the rows, or on all rows at the places of the pack, piece by piece; its results as
    [B, T]."""
    if pack is None:
        return in_pieces(lambda rows: f(rows, None), rollout, rollout.tokens.shape[0], pieces)
    shapes = jax.eval_shape(f, rollout, pack.piece(0))
    empty = jax.tree.map(lambda x: jnp.zeros(rollout.tokens.shape, x.dtype), shapes)
    return pack.fold(lambda places, rows: places.scatter(f(rollout, places), rows), empty)


def of_behaviour(feature: Feature) -> Feature:
    """The feature as the scoring pass sees it: there the policy is the old one, so its own log-prob is old_logp."""

    def scored(row: vocab.Row) -> Array:
        side = {**row.side, "old_logp": vocab.logp(row)}
        if "ref_logits" in row.side:
            side["ref_logp"] = reference_logp(row)
        return feature(row.replace(side=side))

    return vocab.needs_reference_logits(scored) if vocab.reads_reference_logits({"": feature}) else scored


@vocab.needs_reference_logits
def reference_logp(row: vocab.Row) -> Array:
    """log-prob of the token under the reference policy."""
    return row.pick(jax.nn.log_softmax(row.side["ref_logits"], axis=-1))


def needs_scoring(objective: Objective, rollout: Rollout) -> bool:
    """Must the rollout be scored before its only update? Not when the chains ask for no feature and what they decide does not
    depend on old_logp (found by tracing them): the policy has not moved then, and the loss takes its own log-probs for the
    old ones."""
    if objective.remembers or objective.per_step.reads or objective.per_rollout.reads:
        return True
    if "replayed" in rollout.extra:  # those rows come from another policy
        return True
    if objective.needs & {"ref_logp", "attention_entropy"}:
        return True

    def decide(old_logp, rest):
        return run_chains(objective, rest.replace(old_logp=old_logp), {})

    return _depends(jax.make_jaxpr(decide)(rollout.old_logp, rollout.replace(old_logp=None)).jaxpr)


def run_chains(objective: Objective, rollout: Rollout, read: Mapping[str, Array]) -> tuple[Signal, Any, Any]:
    """(Signal, states) behind both chains in their first step, to be traced; `read`: what the per-step chain reads."""
    state = objective.init()
    stats = {"entropy": rollout.entropy, "logp": rollout.old_logp, **rollout.extra}
    context = Context(rollout, stats, jnp.zeros((), jnp.int32), jax.random.key(0))
    signal, first = objective.per_rollout.update(Signal.start(rollout), state["per_rollout"], context)
    signal, second = objective.per_step.update(signal, state["per_step"], context.replace(stats=read))
    return signal, first, second


def _depends(jaxpr: Any) -> bool:
    """Does any result of a program depend on its first argument (as far as its outermost level tells)?"""
    reached = set(jaxpr.invars[:1])
    for equation in jaxpr.eqns:
        if any(not isinstance(v, Literal) and v in reached for v in equation.invars):
            reached.update(equation.outvars)
    return any(not isinstance(v, Literal) and v in reached for v in jaxpr.outvars)
