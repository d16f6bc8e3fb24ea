"""One real update, predicted and measured: every estimator's scores before the step, the exact entropy before and after it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from entjax import entropy_change, masked, vocab
from entjax.analysis.agreement import pearson, spearman
from entjax.batch import make_batch
from entjax.models.lora import split, together
from entjax.passes import policy_features
from entjax.setup import Parts
from entjax.step import TrainState
from entjax.types import Context, Rollout, Signal

ESTIMATORS = (
    entropy_change.exact_first_order,
    entropy_change.discriminator,
    entropy_change.steer_theorem,
    entropy_change.steer_code,
    entropy_change.covariance,
)
SHARED, TAKEN = "shared parameters", "step taken"


class Update(NamedTuple):
    """One update: what was predicted for it and what came."""

    predicted: dict[str, float]  # mean over the tokens
    measured: float  # nats
    entropy: float  # before
    reward: float
    state: dict[str, tuple[float, float]]  # Pearson and Spearman over the states of the update


def make_probe(model: nnx.Module, chunk: int | vocab.Chunks) -> tuple[Callable, Callable]:
    """features(params, rollout) -> what the estimators read; whole(old, new, rollout, advantage) -> what the gradient of the mean
    entropy says of the step from old to new parameters, of which those that are trained are compared."""
    graphdef, _ = nnx.split(model)
    reads = {name: f for e in ESTIMATORS for name, f in e.reads.items()} | {"entropy": vocab.entropy}

    @jax.jit
    def features(params, rows):
        return policy_features(graphdef, params, None, rows, reads, chunk)

    @jax.jit
    def whole(old, new, rows: Rollout, advantage):
        (old, _), (new, frozen) = split(old), split(new)

        def means(trained):
            wanted = {"entropy": vocab.entropy, "logp": vocab.logp}
            found = policy_features(graphdef, together(trained, frozen), None, rows, wanted, chunk)
            mean = lambda x: masked.mean(x, rows.mask)
            return mean(found["entropy"]), mean(advantage * found["logp"])

        towards = jax.grad(lambda p: means(p)[0])(old)
        policy = jax.grad(lambda p: means(p)[1])(old)
        taken = jax.tree.map(lambda a, b: a - b, new, old)
        return {SHARED: optax.tree.vdot(towards, policy), TAKEN: optax.tree.vdot(towards, taken)}

    return features, whole


def one_update(
    parts: Parts, state: TrainState, step: int, probe: tuple[Callable, Callable]
) -> tuple[TrainState, Update]:
    """Rollout, predictions, step (parts with one minibatch), measurement; `probe` from make_probe. The state is used up."""
    features, whole = probe
    batch = make_batch(parts, state, step, parts.strategy.start)
    extra = {name: x for name, x in batch.rollout.extra.items() if name != "reads"}
    before = features(state.params, batch.rollout.replace(extra=extra))
    rollout = batch.rollout.replace(old_logp=before["logp"], extra=extra)
    advantage, scores = predictions(parts.objective, rollout, {**extra, **before}, state.signal_state)
    old = jax.tree.map(jnp.copy, split(state.params)[0])  # the step donates its state
    state, _ = parts.step(state, batch.rollout, batch.pack)
    after = features(state.params, rollout)
    found = compare(scores, before["entropy"], after["entropy"], rollout)
    found.predicted.update(jax.device_get(whole(old, state.params, rollout, advantage)))
    return state, found


def predictions(
    objective, rollout: Rollout, stats: dict, signal_state: dict
) -> tuple[Any, dict[str, np.ndarray]]:
    """The advantages of the objective's rollout chain, and every estimator's scores [B, T] for them."""
    context = Context(rollout, stats, jnp.zeros((), jnp.int32), jax.random.key(0))
    signal, _ = objective.per_rollout.update(Signal.start(rollout), signal_state["per_rollout"], context)
    return signal.advantage, {e.name: np.asarray(e.score(signal, context), np.float64) for e in ESTIMATORS}


def compare(scores: dict[str, np.ndarray], before, after, rollout: Rollout) -> Update:
    """Predictions beside the change of the exact entropy at the valid tokens."""
    mask = np.asarray(rollout.mask)
    before, after = np.asarray(before, np.float64)[mask], np.asarray(after, np.float64)[mask]
    change = after - before
    at = {name: x[mask] for name, x in scores.items()}
    state = states(np.asarray(rollout.tokens))[mask]
    _, first, index = np.unique(state, return_index=True, return_inverse=True)
    inside = {name: np.bincount(index, x) for name, x in at.items()}
    agree = {name: (pearson(x, change[first]), spearman(x, change[first])) for name, x in inside.items()}
    predicted = {name: float(x.mean()) for name, x in at.items()}
    rewards = np.asarray(rollout.reward)[np.asarray(rollout.group) >= 0]
    return Update(predicted, float(change.mean()), float(before.mean()), float(rewards.mean()), agree)


def states(tokens: np.ndarray) -> np.ndarray:
    """A number for the state in which each token [B, T] was drawn: equal where all tokens before it are equal."""
    found, known = np.zeros(tokens.shape, np.int64), {}
    for i, row in enumerate(tokens):
        text = row.tobytes()
        for t in range(len(row)):
            found[i, t] = known.setdefault(text[: t * row.itemsize], len(known))
    return found
