"""One training step as one compiled function: chains -> loss -> gradient -> optimizer, and the state that goes round.

    state, metrics = step(state, rollout)

Minibatches are consecutive optimizer steps on one rollout batch, microbatches split one optimizer step to save memory.
Neither changes which tokens a statistic sees: chains run on the whole (mini)batch, before the gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx, struct
from jaxtyping import Array, Int

from entjax import attention_entropy, masked, vocab
from entjax.loss import Objective, per_token_inputs, policy_loss
from entjax.types import Context, Rollout, Signal, wide_dtype


@struct.dataclass
class TrainState:
    """Everything that a run needs to go on exactly as if it had never stopped."""

    params: Any
    opt_state: Any
    signal_state: dict
    knobs: dict  # scalars handed to the next rollout, NaN until a transform has set them
    step: Int[Array, ""]  # rollout batches consumed
    skipped: Int[Array, ""]  # updates left out because loss or gradient was not finite
    key: Array
    reference: Any = None  # parameters of the reference policy, if the objective compares with one


def init_train_state(
    model: nnx.Module, objective: Objective, optimizer: optax.GradientTransformation, key: Array
) -> TrainState:
    """The state of a new run; the reference policy, if one is needed, starts as a copy of the policy."""
    params = nnx.state(model, nnx.Param)
    return TrainState(
        params=params,
        opt_state=optimizer.init(params),
        signal_state=objective.init(),
        knobs={name: jnp.full((), jnp.nan) for name in sorted(objective.knobs)},
        step=jnp.zeros((), jnp.int32),
        skipped=jnp.zeros((), jnp.int32),
        key=key,
        reference=jax.tree.map(jnp.copy, params) if objective.needs_reference else None,
    )


def forward(graphdef, params, rollout: Rollout) -> tuple[Array, Array]:
    """(hidden states [B, T, D], head [D, V]) of the model with these parameters."""
    model = nnx.merge(graphdef, params)
    with jax.named_scope("backbone"):
        return model(rollout.tokens), model.head()


def policy_features(
    graphdef, params, reference, rollout: Rollout, wanted: dict, chunk: int
) -> dict[str, Array]:
    """Features of the policy at every token, without gradient."""
    hidden, head = forward(graphdef, params, rollout)
    side, reference_head = per_token_inputs(rollout), None
    if reference is not None and vocab.reads_reference_logits(wanted):
        reference_hidden, reference_head = forward(graphdef, reference, rollout)
        side["ref_hidden"] = vocab.before(reference_hidden)
    return vocab.features(
        hidden, head, rollout.tokens, wanted, side,
        temperature=rollout.temperature, reference_head=reference_head, chunk=chunk,
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


def over_microbatches(f: Callable, tree: Any, batch: int, pieces: int) -> Any:
    """f applied to `pieces` parts of the rows one after another; its [rows, ...] results joined."""
    if pieces == 1:
        return f(tree)
    return join_rows(jax.lax.map(f, split_rows(tree, batch, pieces)))


def make_score(
    model: nnx.Module, objective: Objective, *, microbatches: int = 1, chunk: int = vocab.CHUNK
) -> Callable[[TrainState, Rollout], Rollout]:
    """The scoring pass: score(state, rollout) fills in what the trainer's own graph says of the behaviour policy.

    old_logp always; extra["ref_logp"] and the features that transforms remember, if the objective asks for them; and
    extra["entropy"], the policy entropy as the trainer computes it.
    """
    graphdef, _ = nnx.split(model)
    wanted = {"logp": vocab.logp, "entropy": vocab.entropy, **objective.remembers}

    def score_rows(state: TrainState, rollout: Rollout) -> dict[str, Array]:
        found = policy_features(graphdef, state.params, state.reference, rollout, wanted, chunk)
        if "attention_entropy" in objective.needs - set(rollout.extra):
            policy = nnx.merge(graphdef, state.params)
            found["attention_entropy"] = attention_entropy.of_model(policy, rollout.tokens)
        if "ref_logp" in objective.needs:
            only = {"logp": vocab.logp}
            found["ref_logp"] = policy_features(graphdef, state.reference, None, rollout, only, chunk)["logp"]
        return found

    @jax.jit
    def score(state: TrainState, rollout: Rollout) -> Rollout:
        batch = rollout.tokens.shape[0]
        found = over_microbatches(lambda rows: score_rows(state, rows), rollout, batch, microbatches)
        logp = found.pop("logp")
        if "replayed" in rollout.extra:  # an old row is compared with the policy that sampled it
            logp = jnp.where(
                rollout.extra["replayed"].astype(bool)[:, None], rollout.old_logp.astype(logp.dtype), logp
            )
        return rollout.replace(old_logp=logp, extra={**rollout.extra, **found})

    return score


def make_train_step(
    model: nnx.Module,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    *,
    microbatches: int = 1,
    minibatches: int = 1,
    chunk: int = vocab.CHUNK,
    shardings: TrainState | None = None,
) -> Callable[[TrainState, Rollout], tuple[TrainState, dict[str, Array]]]:
    """step(state, rollout) -> (state, metrics), compiled once per shape; the state is donated.

    `shardings` (a prefix of the state) keeps the new state where the old one was; None leaves it to the compiler.
    """
    graphdef, _ = nnx.split(model)
    update = _make_update(graphdef, objective, optimizer, microbatches, chunk)

    def step(state: TrainState, rollout: Rollout) -> tuple[TrainState, dict[str, Array]]:
        check_rollout(rollout, objective, minibatches, microbatches)
        key = jax.random.fold_in(state.key, state.step)
        stats = {"entropy": rollout.entropy, "logp": rollout.old_logp, **rollout.extra}
        context = Context(rollout, stats, state.step, jax.random.fold_in(key, 0))
        signal, chain_state = objective.per_rollout.update(
            Signal.start(rollout), state.signal_state["per_rollout"], context
        )
        state = state.replace(signal_state={**state.signal_state, "per_rollout": chain_state})
        notes, knobs = signal.metrics, signal.knobs
        signal = signal.replace(metrics={}, knobs={})

        def one(state, piece):
            index, rows, part = piece
            return update(
                state, rows, part, state.step * minibatches + index, jax.random.fold_in(key, index + 1)
            )

        batch = rollout.tokens.shape[0]
        if minibatches == 1:
            state, (metrics, step_knobs) = one(state, (jnp.zeros((), jnp.int32), rollout, signal))
        else:
            pieces = split_rows((rollout, signal), batch, minibatches)
            state, out = jax.lax.scan(one, state, (jnp.arange(minibatches, dtype=jnp.int32), *pieces))
            metrics, step_knobs = _over_minibatches(out[0]), jax.tree.map(lambda x: x[-1], out[1])
        reference = state.reference
        if reference is not None and objective.reference_decay < 1.0:
            reference = optax.incremental_update(state.params, reference, 1.0 - objective.reference_decay)
        state = state.replace(
            step=state.step + 1, reference=reference, knobs={**state.knobs, **knobs, **step_knobs}
        )
        return state, {**notes, **metrics}

    return jax.jit(step, donate_argnums=0, out_shardings=None if shardings is None else (shardings, None))


def _make_update(graphdef, objective: Objective, optimizer, microbatches: int, chunk: int):
    """One optimizer step on a minibatch: read the current policy, run the per-step chain, differentiate, apply."""
    terms_need_reference = vocab.reads_reference_logits(objective.terms)

    def loss(params, reference, rows, signal):
        hidden, head = forward(graphdef, params, rows)
        other = None
        if terms_need_reference:
            other = jax.lax.stop_gradient(forward(graphdef, reference, rows))
        out = policy_loss(objective, hidden, head, rows, signal, reference=other, chunk=chunk)
        return out.loss, out

    def gradients(state, rollout, signal):
        differentiate = jax.grad(loss, has_aux=True)
        if microbatches == 1:
            return differentiate(state.params, state.reference, rollout, signal)

        def one(total, piece):
            grads, out = differentiate(state.params, state.reference, *piece)
            return jax.tree.map(lambda a, b: a + b.astype(a.dtype), total, grads), out

        wide = lambda p: jnp.zeros(p.shape, wide_dtype(p.dtype))
        pieces = split_rows(
            (rollout, signal.replace(metrics={}, knobs={})), rollout.tokens.shape[0], microbatches
        )
        grads, out = jax.lax.scan(one, jax.tree.map(wide, state.params), pieces)
        out = out._replace(loss=out.loss.sum(), logp=join_rows(out.logp), entropy=join_rows(out.entropy))
        return jax.tree.map(lambda g, p: g.astype(p.dtype), grads, state.params), out

    def update(state: TrainState, rollout: Rollout, signal: Signal, count: Array, key: Array):
        stats = {}
        if objective.per_step.reads:
            read = lambda rows: policy_features(
                graphdef, state.params, state.reference, rows, dict(objective.per_step.reads), chunk
            )
            with jax.named_scope("read_policy"):
                stats = over_microbatches(read, rollout, rollout.tokens.shape[0], microbatches)
        with jax.named_scope("per_step_chain"):
            context = Context(rollout, stats, count, key)
            signal, chain_state = objective.per_step.update(signal, state.signal_state["per_step"], context)
        with jax.named_scope("gradient"):
            grads, out = gradients(state, rollout, signal)
        norm = optax.tree.norm(grads)
        fine = jnp.isfinite(norm) & jnp.isfinite(out.loss)
        with (
            jax.named_scope("optimizer"),
            jax.numpy_dtype_promotion("standard"),
        ):  # optax mixes int and float counts
            changes, opt_state = optimizer.update(grads, state.opt_state, state.params)
            params = optax.apply_updates(state.params, changes)
        select = lambda new, old: jax.tree.map(lambda a, b: jnp.where(fine, a, b), new, old)
        state = state.replace(
            params=select(params, state.params),
            opt_state=select(opt_state, state.opt_state),
            signal_state={
                **state.signal_state,
                "per_step": select(chain_state, state.signal_state["per_step"]),
            },
            skipped=state.skipped + (~fine).astype(jnp.int32),
        )
        metrics = {**signal.metrics, **step_metrics(rollout, signal, out), "grad_norm": norm}
        metrics["update/skipped"] = (~fine).astype(jnp.float32)
        return state, (metrics, signal.knobs)

    return update


def step_metrics(rollout: Rollout, signal: Signal, out) -> dict[str, Array]:
    """What every run reports of a step, from the log-probs and entropies that the loss computed anyway."""
    mask = rollout.mask
    log_ratio = jnp.clip(jnp.where(mask, out.logp - rollout.old_logp.astype(out.logp.dtype), 0), -20, 20)
    ratio = jnp.exp(log_ratio)
    gap = jnp.abs(rollout.old_logp - rollout.logp)
    return {
        "loss": out.loss,
        "entropy/mean": masked.mean(out.entropy, mask),
        "entropy/sampled": -masked.mean(out.logp, mask),
        "advantage/abs": masked.mean(jnp.abs(signal.advantage), mask),
        "weight/mean": masked.mean(signal.weight, mask),
        "kl/old": masked.mean(ratio - 1.0 - log_ratio, mask),
        "clip/low": masked.mean((ratio < signal.clip_low) & (signal.advantage < 0), mask),
        "clip/high": masked.mean((ratio > signal.clip_high) & (signal.advantage > 0), mask),
        "ratio/min": masked.minimum(ratio, mask, empty=1.0),
        "ratio/max": masked.maximum(ratio, mask, empty=1.0),
        "mismatch/mean": masked.mean(gap, mask),
        "mismatch/max": masked.maximum(gap, mask),
    }


def _over_minibatches(metrics: dict[str, Array]) -> dict[str, Array]:
    """Means over the minibatches, but extremes of extremes and sums of counts."""
    reduce = {"min": jnp.min, "max": jnp.max, "skipped": jnp.sum}
    return {name: reduce.get(name.rsplit("/", 1)[-1], jnp.mean)(x) for name, x in metrics.items()}


def check_rollout(rollout: Rollout, objective: Objective, minibatches: int, microbatches: int) -> None:
    """Refuse, before anything is compiled, a rollout that the step cannot use."""
    batch, length = rollout.tokens.shape
    for name in ("mask", "logp", "entropy", "old_logp"):
        if getattr(rollout, name).shape != (batch, length):
            raise ValueError(
                f"rollout.{name} has shape {getattr(rollout, name).shape}, but rollout.tokens has {(batch, length)}."
            )
    for name in ("reward", "group"):
        if getattr(rollout, name).shape != (batch,):
            raise ValueError(
                f"rollout.{name} has shape {getattr(rollout, name).shape}; it needs one entry a row: ({batch},)."
            )
    if batch % (minibatches * microbatches):
        raise ValueError(
            f"{batch} rows cannot be split into {minibatches} minibatches of {microbatches} microbatches: choose numbers "
            f"whose product divides {batch}."
        )
    missing = sorted((objective.needs | set(objective.remembers)) - set(rollout.extra))
    if missing:
        raise ValueError(
            f"The objective needs rollout.extra[{', '.join(map(repr, missing))}]. Reference log-probs and remembered features "
            "come from make_score(model, objective)(state, rollout); other keys come from the task or the rollout strategy."
        )
