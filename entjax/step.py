"""One training step as one compiled function: chains -> loss -> gradient -> optimizer, and the state that goes round.

    state, metrics = step(state, rollout)

Minibatches are consecutive optimizer steps on one rollout batch, microbatches split one optimizer step to save memory.
Chains run before the gradient: per rollout on the whole batch, per step on the whole minibatch, however it is split. A minibatch
has rows of all groups, every M-th: with several of them a group statistic in a per-step chain sees a part of each group.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx, struct
from jaxtyping import Array, Int

from entjax import attention_entropy, masked, vocab
from entjax.loss import LossOutput, Objective, policy_loss
from entjax.models.lora import split, together
from entjax.packing import Pack, Places
from entjax.passes import (
    forward,
    join_rows,
    of_behaviour,
    over_microbatches,
    policy_features,
    reference_logp,
    split_rows,
)
from entjax.rollout_checks import check_rollout, check_rows
from entjax.types import Context, Rollout, Signal, wide_dtype

ATTENTION = "attention_entropy"
READ = "read "  # prefix of what the per-step chain reads among the features of the scoring pass


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
    # If the objective compares with a reference policy: those of its parameters that are trained, or a teacher's.
    reference: Any = None

    def reference_params(self, objective: Objective) -> Any:
        """The whole parameters of the reference policy, or None; what is frozen it shares with the policy."""
        own = objective.teacher is None and self.reference is not None
        return together(self.reference, split(self.params)[1]) if own else self.reference


def init_train_state(
    model: nnx.Module, objective: Objective, optimizer: optax.GradientTransformation, key: Array
) -> TrainState:
    """The state of a new run; the reference policy, if one is needed, is the teacher or starts as a copy of the policy.

    Weights and key are copied: a step takes its state's memory, and the model stays as it is.
    """
    params, key = jax.tree.map(jnp.copy, (nnx.state(model, nnx.Param), key))
    return state_of(params, objective, optimizer, key)


def state_of(
    params: Any, objective: Objective, optimizer: optax.GradientTransformation, key: Array
) -> TrainState:
    """The same from weights and a key that may be used up."""
    trained, _ = split(params)
    reference = trained if objective.teacher is None else nnx.state(objective.teacher, nnx.Param)
    return TrainState(
        params=params,
        opt_state=optimizer.init(trained),
        signal_state=objective.init(),
        knobs={name: jnp.full((), jnp.nan, jnp.float32) for name in sorted(objective.knobs)},
        step=jnp.zeros((), jnp.int32),
        skipped=jnp.zeros((), jnp.int32),
        key=key,
        reference=jax.tree.map(jnp.copy, reference) if objective.needs_reference else None,
    )


def make_score(
    model: nnx.Module,
    objective: Objective,
    *,
    microbatches: int = 1,
    chunk: int | vocab.Chunks = vocab.CHUNK,
    reads: bool = False,
) -> Callable[..., Rollout]:
    """The scoring pass: score(state, rollout, pack=None) fills in what the trainer's own graph says of the behaviour policy.

    old_logp and entropy (of a replayed row those of the policy that sampled it); extra["ref_logp"] and the features that
    transforms remember, if the objective asks for them; extra["entropy"], the entropy of this policy at all rows. With `reads`
    also what the per-step chain reads (extra["reads"]), which the next update need not compute again: for a caller who hands it
    the weights that were scored.
    """
    graphdef, teacher = nnx.split(model)[0], structure_of(objective.teacher)
    wanted = {"logp": vocab.logp, "entropy": vocab.entropy, **objective.remembers}
    if "ref_logp" in objective.needs:
        wanted["ref_logp"] = reference_logp
    read = objective.per_step.reads if reads else {}
    wanted |= {READ + name: feature for name, feature in read.items()}
    wanted = {name: of_behaviour(feature) for name, feature in wanted.items()}

    @jax.jit
    def score(state: TrainState, rollout: Rollout, pack: Pack | None = None) -> Rollout:
        check_rows(rollout, microbatches, f"{microbatches} microbatches")
        reference = state.reference_params(objective)

        def features(rows: Rollout, places: Places | None) -> dict[str, Array]:
            return policy_features(graphdef, state.params, reference, rows, wanted, chunk, places, teacher)

        def attention(rows: Rollout, _) -> dict[str, Array]:
            return {ATTENTION: attention_entropy.of_model(nnx.merge(graphdef, state.params), rows.tokens)}

        found = over_microbatches(features, rollout, microbatches, None if pack is None else pack.whole())
        if ATTENTION in objective.needs - set(rollout.extra):
            found |= over_microbatches(attention, rollout, microbatches)
        logp, entropy = found.pop("logp"), found["entropy"]
        seen = {name: found.pop(READ + name) for name in read}
        if "replayed" in rollout.extra:  # an old row is compared with the policy that sampled it
            replayed = rollout.extra["replayed"].astype(bool)[:, None]
            logp = jnp.where(replayed, rollout.old_logp.astype(logp.dtype), logp)
            entropy = jnp.where(replayed, rollout.entropy.astype(entropy.dtype), entropy)
            seen = {}  # they took every row for one of this policy
        extra = {**rollout.extra, **found} | ({"reads": {"step": state.step, "values": seen}} if seen else {})
        return rollout.replace(old_logp=logp, entropy=entropy, extra=extra)

    return score


def make_train_step(
    model: nnx.Module,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    *,
    microbatches: int = 1,
    minibatches: int = 1,
    chunk: int | vocab.Chunks = vocab.CHUNK,
    shardings: TrainState | None = None,
) -> Callable[..., tuple[TrainState, dict[str, Array]]]:
    """step(state, rollout, pack=None) -> (state, metrics), compiled once per shape; the state is donated.

    `pack` (packing.plan) says at which places the model computes; the numbers are those of plain rows.
    `shardings` (a prefix of the state) keeps the new state where the old one was; None leaves it to the compiler.
    """
    graphdef, _ = nnx.split(model)
    update = _make_update(graphdef, objective, optimizer, microbatches, chunk)

    def step(
        state: TrainState, rollout: Rollout, pack: Pack | None = None
    ) -> tuple[TrainState, dict[str, Array]]:
        check_rollout(rollout, objective, minibatches, microbatches)
        rollout = rollout.without_filler()
        key = jax.random.fold_in(state.key, state.step)
        seen = rollout.extra.get("reads")
        rollout = rollout.replace(extra={name: x for name, x in rollout.extra.items() if name != "reads"})
        stats = {"entropy": rollout.entropy, "logp": rollout.old_logp, **rollout.extra}
        context = Context(rollout, stats, state.step, jax.random.fold_in(key, 0))
        signal, chain_state = objective.per_rollout.update(
            Signal.start(rollout), state.signal_state["per_rollout"], context
        )
        before = (state.signal_state["per_rollout"], state.knobs)
        state = state.replace(signal_state={**state.signal_state, "per_rollout": chain_state})
        notes, knobs = signal.metrics, signal.knobs
        signal = signal.replace(metrics={}, knobs={})

        def one(state, piece):
            index, rows, part, values, pack = piece
            known = None if seen is None else (values, (index == 0) & (seen["step"] == state.step))
            count = state.step * minibatches + index
            return update(state, Piece(rows, part, known, pack), count, jax.random.fold_in(key, index + 1))

        batch, values = rollout.tokens.shape[0], None if seen is None else seen["values"]
        if minibatches == 1:
            first = None if pack is None else pack.minibatch(0)
            state, (metrics, step_knobs) = one(
                state, (jnp.zeros((), jnp.int32), rollout, signal, values, first)
            )
        else:
            # An average over the whole batch gives a row of a minibatch so many times its weight in the batch.
            larger = lambda tree: jax.tree.map(lambda x: minibatches * x, tree)
            signal = signal.replace(scale=larger(signal.scale), own_scale=larger(signal.own_scale))
            pieces = split_rows((rollout, signal, values), batch, minibatches)
            state, out = jax.lax.scan(one, state, (jnp.arange(minibatches, dtype=jnp.int32), *pieces, pack))
            metrics, step_knobs = _over_minibatches(out[0]), jax.tree.map(lambda x: x[-1], out[1])
        reference = state.reference
        if reference is not None and objective.reference_decay < 1.0:
            reference = optax.incremental_update(
                split(state.params)[0], reference, 1.0 - objective.reference_decay
            )
        # A batch with an update that was not finite leaves no trace in what is remembered for the next one either.
        set_now = lambda name, new: jnp.where(jnp.isnan(new), state.knobs.get(name, new), new)
        fresh = {name: set_now(name, new) for name, new in {**knobs, **step_knobs}.items()}
        after = (chain_state, {**state.knobs, **fresh})
        chain_state, knobs = _select(metrics["update/skipped"] == 0, after, before)
        signal_state = {**state.signal_state, "per_rollout": chain_state}
        state = state.replace(
            step=state.step + 1, reference=reference, knobs=knobs, signal_state=signal_state
        )
        return state, {**notes, **metrics}

    return jax.jit(step, donate_argnums=0, out_shardings=None if shardings is None else (shardings, None))


def structure_of(module: nnx.Module | None) -> Any:
    """A module without its weights."""
    return None if module is None else nnx.split(module)[0]


def _select(fine: Array, new: Any, old: Any) -> Any:
    def choose(a, b):
        b = jnp.asarray(b)
        # Random keys have no astype.
        return jnp.where(fine, a, b if b.dtype == a.dtype else b.astype(a.dtype))

    return jax.tree.map(choose, new, old)


class Piece(NamedTuple):
    """What one optimizer step works on."""

    rollout: Rollout
    signal: Signal
    known: (
        tuple[dict, Array] | None
    )  # what the scoring pass has seen of the policy, and whether that still holds
    pack: Pack | None


def _make_update(graphdef, objective: Objective, optimizer, microbatches: int, chunk: int | vocab.Chunks):
    """One optimizer step on a minibatch: read the current policy, run the per-step chain, differentiate, apply."""
    gradients = make_gradients(graphdef, objective, microbatches, chunk)
    teacher = structure_of(objective.teacher)

    def read(state, piece: Piece) -> dict[str, Array]:
        reads = dict(objective.per_step.reads)
        if not reads:
            return {}

        reference = state.reference_params(objective)

        def features(rows, places):
            return policy_features(graphdef, state.params, reference, rows, reads, chunk, places, teacher)

        compute = lambda: over_microbatches(features, piece.rollout, microbatches, piece.pack)
        with jax.named_scope("read_policy"):
            return (
                compute()
                if piece.known is None
                else jax.lax.cond(piece.known[1], lambda: piece.known[0], compute)
            )

    def update(state: TrainState, piece: Piece, count: Array, key: Array):
        rollout, signal = piece.rollout, piece.signal
        stats = read(state, piece)
        with jax.named_scope("per_step_chain"):
            context = Context(rollout, stats, count, key)
            signal, chain_state = objective.per_step.update(signal, state.signal_state["per_step"], context)
        with jax.named_scope("gradient"):
            grads, out = gradients(state, piece._replace(signal=signal))
        norm = optax.tree.norm(grads)
        fine = jnp.isfinite(norm) & jnp.isfinite(out.loss)
        with (
            jax.named_scope("optimizer"),
            jax.numpy_dtype_promotion("standard"),
        ):  # optax mixes int and float counts
            trained, frozen = split(state.params)
            changes, opt_state = optimizer.update(grads, state.opt_state, trained)
            changed = _select(fine, optax.apply_updates(trained, changes), trained)
        chain_state = _select(fine, chain_state, state.signal_state["per_step"])
        state = state.replace(
            params=together(changed, frozen),
            opt_state=_select(fine, opt_state, state.opt_state),
            signal_state={**state.signal_state, "per_step": chain_state},
            skipped=state.skipped + (~fine).astype(jnp.int32),
        )
        metrics = {**signal.metrics, **step_metrics(rollout, signal, out), "grad_norm": norm}
        metrics["update/skipped"] = (~fine).astype(jnp.float32)
        return state, (metrics, signal.knobs)

    return update


def make_gradients(graphdef, objective: Objective, microbatches: int, chunk: int | vocab.Chunks):
    """(gradients in what is trained, LossOutput with [B, T] log-probs) of a minibatch, microbatch by microbatch or piece by
    piece of its pack."""
    terms_need_reference = vocab.reads_reference_logits(objective.terms)
    teacher = structure_of(objective.teacher) or graphdef

    def loss(trained, frozen, reference, rows, signal, places):
        hidden, head = forward(graphdef, together(trained, frozen), rows, places)
        other = None
        if terms_need_reference:
            other = jax.lax.stop_gradient(forward(teacher, reference, rows, places))
        out = policy_loss(objective, hidden, head, rows, signal, reference=other, chunk=chunk, places=places)
        return out.loss, out

    differentiate = jax.jit(jax.grad(loss, has_aux=True), inline=True)  # traced once for shapes and for use
    wide = lambda tree: jax.tree.map(lambda p: jnp.zeros(p.shape, wide_dtype(p.dtype)), tree)
    add = lambda total, grads: jax.tree.map(lambda a, b: a + b.astype(a.dtype), total, grads)

    def by_rows(policy: tuple, rows: Rollout, signal: Signal):
        if microbatches == 1:
            return differentiate(*policy, rows, signal, None)

        def one(total, part):
            grads, out = differentiate(*policy, *part, None)
            return add(total, grads), out

        pieces = split_rows((rows, signal), rows.tokens.shape[0], microbatches)
        grads, out = jax.lax.scan(one, wide(policy[0]), pieces)
        return grads, LossOutput(out.loss.sum(), join_rows(out.logp), join_rows(out.entropy))

    def by_places(policy: tuple, rows: Rollout, signal: Signal, pack: Pack):
        given = lambda places: (*policy, rows, signal, places)
        _, like = jax.eval_shape(differentiate, *given(pack.piece(0)))
        empty = lambda x: jnp.zeros(rows.tokens.shape if x.ndim else (), x.dtype)

        def one(places: Places, found):
            total, so_far = found
            grads, out = differentiate(*given(places))
            logp, entropy = places.scatter((out.logp, out.entropy), (so_far.logp, so_far.entropy))
            return add(total, grads), LossOutput(so_far.loss + out.loss, logp, entropy)

        return pack.fold(one, (wide(policy[0]), jax.tree.map(empty, like)))

    def gradients(state: TrainState, piece: Piece):
        rows, signal = piece.rollout, piece.signal.replace(metrics={}, knobs={})
        policy = (*split(state.params), state.reference_params(objective))
        if piece.pack is None:
            grads, out = by_rows(policy, rows, signal)
        else:
            grads, out = by_places(policy, rows, signal, piece.pack)
        return jax.tree.map(lambda g, p: g.astype(p.dtype), grads, policy[0]), out

    return gradients


def step_metrics(rollout: Rollout, signal: Signal, out) -> dict[str, Array]:
    """What every run reports of a step, from the log-probs and entropies that the loss computed anyway."""
    mask = rollout.mask
    old_logp = out.logp if rollout.old_logp is None else rollout.old_logp.astype(out.logp.dtype)
    log_ratio = jnp.clip(jnp.where(mask, out.logp - old_logp, 0), -20, 20)
    ratio = jnp.exp(log_ratio)
    mismatch = {}
    if rollout.logp is not None:
        gap = jnp.abs(old_logp - rollout.logp)
        mismatch = {"mismatch/mean": masked.mean(gap, mask), "mismatch/max": masked.maximum(gap, mask)}
    return mismatch | {
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
    }


def _over_minibatches(metrics: dict[str, Array]) -> dict[str, Array]:
    """Means over the minibatches, but extremes of extremes and sums of counts."""
    reduce = {"min": jnp.min, "max": jnp.max, "skipped": jnp.sum}
    return {name: reduce.get(name.rsplit("/", 1)[-1], jnp.mean)(x) for name, x in metrics.items()}
