"""Any Objective as a loss of plain arrays: a rollout and the logits that your own model gives for it.

    loss = sum(scale * -weight * surrogate) + sum_k sum(scale_k * coef_k * feature_k)

as in `entjax.loss`, but with logits [B, T, V] that exist already and gradients by ordinary automatic differentiation. Logits at
index t predict tokens[:, t]; for the output of a model on `tokens` that is `vocab.before(logits)`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from entjax import vocab
from entjax.loss import LossOutput, Objective, log_ratios, per_token_inputs, token_losses
from entjax.passes import of_behaviour
from entjax.rollout_checks import check_shapes
from entjax.step import step_metrics
from entjax.transform import Transform
from entjax.types import Context, Rollout, Signal


def _with_state(parts: Iterable[Transform]) -> list[str]:
    return [part.name for part in parts if jax.tree.leaves(part.init(None))]


def check_stateless(objective: Objective) -> None:
    """Refuse what a loss function cannot do: keep a state, set the next rollout's knobs, run a second policy."""
    remembering = _with_state(objective.parts)
    if remembering:
        raise ValueError(
            f"{', '.join(remembering)} would have to remember something from step to step, and a loss function cannot: use "
            "ej.make_train_step, or loss_with_state with a state that your loop keeps."
        )
    _check_alone(objective)


def _check_alone(objective: Objective) -> None:
    """Refuse what takes more than a rollout and one policy's logits."""
    if objective.knobs:
        raise ValueError(
            f"The objective sets {', '.join(sorted(objective.knobs))} for the next rollout, which only entjax's trainer hears."
        )
    terms = {**objective.terms, **objective.per_step.reads, **objective.remembers}
    if vocab.reads_reference_logits(terms):
        raise ValueError(
            "The objective compares whole distributions with a reference policy, whose logits are not at hand here: use a term "
            "of log-probs such as ej.regularizers.kl, or ej.make_train_step."
        )


def decide(
    chain: Transform, signal: Signal, rollout: Rollout, stats: Mapping[str, Array] | None = None, **context
) -> Signal:
    """The Signal after a stateless chain: what the loss shall do with every token. `stats` are features [B, T] that it reads.
    A chain with a state is `signal, state = chain.update(signal, state, context)` in a loop of your own."""
    remembering = _with_state(chain.parts or (chain,))
    if remembering:
        raise ValueError(
            f"{', '.join(remembering)} would have to remember something from step to step: keep the state in your loop, "
            "signal, state = chain.update(signal, state, ej.Context(rollout, stats))."
        )
    check_shapes(rollout)
    return _advance(chain, signal, chain.init(signal), rollout.without_filler(), stats, **context)[0]


def _advance(chain: Transform, signal: Signal, state: Any, rollout: Rollout, stats, **context) -> tuple:
    known: dict = {"entropy": rollout.entropy, "logp": rollout.old_logp, **rollout.extra, **(stats or {})}
    return chain.update(signal, state, Context(rollout, known, **context))


def loss_from_logits(
    objective: Objective, logits: Float[Array, "B T V"], rollout: Rollout, *, step=0, key: Array | None = None
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """(loss, metrics) of a batch; differentiate it with respect to whatever made the logits.

    A rollout whose `old_logp` is None comes from this very policy: old_logp, entropy and what the transforms remember are then
    taken from these logits. Statistics (advantages, quantiles, means) are those of the rows given here.
    """
    check_stateless(objective)
    loss, (metrics, _) = loss_with_state(objective, objective.init(), logits, rollout, step=step, key=key)
    return loss, metrics


def loss_with_state(
    objective: Objective,
    state: dict,
    logits: Float[Array, "B T V"],
    rollout: Rollout,
    *,
    step=0,
    key: Array | None = None,
) -> tuple[Float[Array, ""], tuple[dict[str, Array], dict]]:
    """(loss, (metrics, state)): the same for objectives that remember something, such as a controller or a schedule.

    `state` is `objective.init()` at first. Every call counts as a rollout and an optimizer step.
    """
    _check_alone(objective)
    check_shapes(rollout)
    if logits.shape[:2] != rollout.tokens.shape:
        raise ValueError(
            f"logits of {logits.shape[:2]} positions, but rollout.tokens has {rollout.tokens.shape}: logits at index t predict "
            "tokens[:, t] (vocab.before shifts the output of a model on all tokens)."
        )
    logits = vocab.finite_logits(logits, rollout.temperature)
    rollout = rollout.without_filler()
    rollout, stats = jax.lax.stop_gradient(_with_statistics(objective, logits, rollout))
    first, second = objective.per_rollout, objective.per_step
    signal, before = _advance(
        first, Signal.start(rollout), state["per_rollout"], rollout, None, step=step, key=_fold(key, 0)
    )
    signal, after = _advance(second, signal, state["per_step"], rollout, stats, step=step, key=_fold(key, 1))
    signal, state = jax.lax.stop_gradient((signal, {"per_rollout": before, "per_step": after}))

    @jax.checkpoint  # the softmax of every feature would be kept for the backward pass
    def values(logits):
        here = vocab.Row(logits, rollout.tokens, per_token_inputs(rollout))
        wanted = {name: feature for name, feature in objective.terms.items() if name in signal.coef}
        return {name: f(here) for name, f in {**wanted, "logp": vocab.logp, "entropy": vocab.entropy}.items()}

    found = values(logits)
    ratios = log_ratios(found["logp"], rollout.old_logp, signal.mask & rollout.mask)
    losses = token_losses(ratios, signal, found, objective.per_token)
    loss = jnp.where(rollout.mask, losses, 0).sum()
    out = jax.lax.stop_gradient(LossOutput(loss, found["logp"], found["entropy"]))
    return loss, ({**signal.metrics, **step_metrics(rollout, signal, out)}, state)


def _with_statistics(
    objective: Objective, logits: Array, rollout: Rollout
) -> tuple[Rollout, dict[str, Array]]:
    """The rollout with what the behaviour policy says of it, where that is this policy; and what the per-step chain reads."""
    at = lambda rollout: vocab.Row(logits, rollout.tokens, per_token_inputs(rollout))
    if rollout.old_logp is None:
        bare = vocab.Row(logits, rollout.tokens)
        rollout = rollout.replace(logp=vocab.logp(bare), entropy=vocab.entropy(bare))
        remembered = {name: of_behaviour(f)(at(rollout)) for name, f in objective.remembers.items()}
        rollout = rollout.replace(old_logp=rollout.logp, extra={**rollout.extra, **remembered})
    if rollout.entropy is None:
        raise ValueError(
            "rollout.old_logp is given and rollout.entropy is None: keep the entropies of the policy that sampled beside its "
            "log-probs, or give neither, and they are taken from these logits."
        )
    absent = sorted((objective.needs | set(objective.remembers)) - set(rollout.extra))
    if absent:
        raise ValueError(f"The objective needs rollout.extra[{absent[0]!r}], which nobody has filled in.")
    return rollout, {name: f(at(rollout)) for name, f in objective.per_step.reads.items()}


def _fold(key: Array | None, index: int) -> Array | None:
    return None if key is None else jax.random.fold_in(key, index)
