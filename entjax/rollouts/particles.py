"""Entropic particle filtering: inference-time search whose resampling is annealed while the weights are concentrated.

    l_i = logit(clip(score_i, 1e-7, 1 - 1e-7)),  w = softmax(l),  ESS = 1 / sum w^2,  s = t / T_max
    ESS / N < 0.5 and s < 0.5:  tau = max(1, (N / ESS)(1 - s))  [by ESS, the default],  1 / (H_n + (1 - H_n) s)  [by entropy],
    max(1, 2 - s)  [by progress];  else tau = 1.   Particles are drawn again with softmax(l / tau) after every step

A weight belongs to the current prefix alone, it is not a product over steps; finished particles keep theirs and take part.
The answer is the particle of largest l. Taken from the published library (its_hub): its plain particle filter (`annealing=None`)
always draws multinomially, and its look-ahead weights were never released. w is at least 1e-7 inside ESS and in H_n = H / ln N,
where for N <= 2 nothing is divided.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import entr
from jaxtyping import Array, Float, Int

from entjax.rollouts.harvest import take
from entjax.rollouts.rows import begin_rows
from entjax.rollouts.stepper import LARGE
from entjax.sampler import Completions, DecodeState, Sampler, Sampling
from entjax.sampler.host import fetch

TINY = 1e-7
Annealing = Callable[[Array, Array | float], Array]  # (w [..., N], progress s) -> temperature [...]
Resampling = Callable[[Array, Array], Array]  # (probabilities [..., N], key) -> ancestors [..., N]
Score = Callable[[np.ndarray, list[list[int]]], Any]  # (prompt numbers [R], completions) -> [R] in [0, 1]


# Pure functions ----------------------------------------------------------------------------------------------------------------


def log_weight(score: Float[Array, ...]) -> Float[Array, ...]:
    """logit of a score in [0, 1], kept finite."""
    # 1 - 1e-7 is not a float32, so each side is bounded by itself.
    return jnp.log(jnp.maximum(score, TINY)) - jnp.log(jnp.maximum(1 - score, TINY))


def effective_size(w: Float[Array, "... N"]) -> Float[Array, ...]:
    """ESS = 1 / sum w^2: how many particles carry the weight."""
    return 1 / jnp.sum(jnp.clip(w, TINY) ** 2, axis=-1)


def normalized_entropy(w: Float[Array, "... N"]) -> Float[Array, ...]:
    """H(w) / ln N, for more than two particles."""
    n = w.shape[-1]
    return jnp.sum(entr(jnp.clip(w, TINY)), axis=-1) / (math.log(n) if n > 2 else 1.0)


def by_ess(w: Array, progress: Array | float) -> Array:
    """max(1, (N / ESS)(1 - s))."""
    return jnp.maximum(1, w.shape[-1] / effective_size(w) * (1 - progress))


def by_entropy(w: Array, progress: Array | float) -> Array:
    """max(1, 1 / (H_n + (1 - H_n) s))."""
    h = normalized_entropy(w)
    return jnp.maximum(1, 1 / (h + (1 - h) * progress))


def by_progress(w: Array, progress: Array | float) -> Array:
    """max(1, 2 - s)."""
    return jnp.full(w.shape[:-1], jnp.maximum(1, 2 - progress), w.dtype)


def temperature(
    log_weights: Float[Array, "... N"],
    progress: Array | float,
    annealing: Annealing = by_ess,
    *,
    ess_threshold: float = 0.5,
    early: float = 0.5,
) -> Float[Array, ...]:
    """tau: the annealing's while few particles carry the weight in the early part of the search, else 1."""
    w = jax.nn.softmax(log_weights, axis=-1)
    active = (effective_size(w) / w.shape[-1] < ess_threshold) & (jnp.asarray(progress) < early)
    return jnp.where(active, annealing(w, progress), 1)


def systematic_at(probs: Float[Array, "... N"], u: Float[Array, ...]) -> Int[Array, "... N"]:
    """Ancestors from one number u in [0, 1): the first index whose cumulative probability reaches (i + u) / N."""
    n = probs.shape[-1]
    points = (jnp.arange(n, dtype=probs.dtype) + u[..., None]) / n
    reached = jnp.cumsum(probs, axis=-1)[..., None, :] >= points[..., :, None]
    # Rounding may keep the sum below the last point; then the last particle with any probability.
    last = n - 1 - jnp.argmax(jnp.flip(probs > 0, axis=-1), axis=-1)[..., None]
    return jnp.where(reached.any(-1), jnp.argmax(reached, axis=-1), last).astype(jnp.int32)


def systematic(probs: Float[Array, "... N"], key: Array) -> Int[Array, "... N"]:
    """Systematic resampling: floor or ceil of N p_i copies of every particle."""
    return systematic_at(probs, jax.random.uniform(key, probs.shape[:-1], probs.dtype))


def multinomial(probs: Float[Array, "... N"], key: Array) -> Int[Array, "... N"]:
    """Every particle draws its ancestor by itself."""
    shape = (probs.shape[-1], *probs.shape[:-1])
    drawn = jax.random.categorical(key, jnp.log(probs), axis=-1, shape=shape)
    return jnp.moveaxis(drawn, 0, -1).astype(jnp.int32)


# The search --------------------------------------------------------------------------------------------------------------------


class Plan(NamedTuple):
    """How to search. A reasoning step ends with one of the token ids `ends`, or after `tokens` tokens."""

    steps: int  # T_max
    tokens: int
    ends: tuple[int, ...] = ()
    particles: int = 8
    annealing: Annealing | None = by_ess
    resampling: Resampling = systematic


class Search(NamedTuple):
    """What a search found, for P prompts of N particles."""

    completions: Completions  # [P * N], the particles of a prompt next to each other
    log_weights: np.ndarray  # [P, N]
    best: np.ndarray  # [P] row of the answer
    ess: np.ndarray  # [steps, P] of the weights after each step
    temperature: np.ndarray  # [steps, P]


def particle_filter(
    sampler: Sampler,
    params: Any,
    prompts: Sequence[Sequence[int]],
    how: Sampling,
    score: Score,
    plan: Plan,
    *,
    key: Any,
) -> Search:
    """Search with particles for every prompt; `score` judges prefixes (a process reward model, or a verifier)."""
    if min(plan.particles, plan.steps, plan.tokens) < 1:
        raise ValueError(
            f"A search needs at least one particle, step and token, got {plan[:2]} and {plan.particles}."
        )
    owner = np.repeat(np.arange(len(prompts)), plan.particles)
    pausing = dataclasses.replace(how, stop_ids=(*how.stop_ids, *plan.ends))
    state = begin_rows(sampler, params, prompts, pausing, key=key, samples=plan.particles)
    ess, temperatures = [], []
    for step in range(1, plan.steps + 1):
        state = _resume(sampler, sampler.decode(params, state, plan.tokens), how, plan)
        out = take(sampler.finish(state), np.arange(len(owner)))
        found = np.asarray(score(owner, [out.completion(row) for row in range(len(owner))]), np.float32)
        weights = log_weight(jnp.asarray(found.reshape(len(prompts), plan.particles)))
        tau = jnp.ones(len(prompts))
        if plan.annealing is not None:
            tau = temperature(weights, step / plan.steps, plan.annealing)
        ess.append(np.asarray(effective_size(jax.nn.softmax(weights, axis=-1))))
        temperatures.append(np.asarray(tau))
        if step == plan.steps or fetch(state.done).all():
            break
        ancestor = plan.resampling(
            jax.nn.softmax(weights / tau[:, None], axis=-1), jax.random.fold_in(key, step)
        )
        rows = (np.asarray(ancestor) + plan.particles * np.arange(len(prompts))[:, None]).ravel()
        rows = np.concatenate([rows, np.arange(len(owner), len(state.length))])
        state = sampler.fork(state, rows, _keys(state, rows, step))
    best = np.asarray(jnp.argmax(weights, axis=-1)) + plan.particles * np.arange(len(prompts))
    out = dataclasses.replace(out, group=owner)
    return Search(out, np.asarray(weights), best, np.stack(ess), np.stack(temperatures))


def _keys(state: DecodeState, rows: np.ndarray, step: int) -> Any:
    """A place that goes on with its own particle keeps its key. Another would draw again, at the positions behind its shorter
    ancestor, the numbers that made the particle which lost, so it gets a new one."""
    new = jax.vmap(lambda key: jax.random.fold_in(key, LARGE + step))(state.key)
    own = jnp.asarray(rows == np.arange(len(rows)))
    return jnp.where(own, state.key, new)


def _resume(sampler: Sampler, state: DecodeState, how: Sampling, plan: Plan) -> DecodeState:
    """Rows that stopped only because their step ended run on."""
    tokens, length, limit, done, finished = fetch(
        (state.tokens, state.length, state.limit, state.done, state.finished)
    )
    last = tokens[np.arange(len(length)), length - 1]
    paused = finished & np.isin(last, plan.ends) & ~np.isin(last, [*sampler.eos_ids, *how.stop_ids])
    return state.replace(
        done=jnp.asarray(done & ~(paused & (length < limit))), finished=jnp.asarray(finished & ~paused)
    )
