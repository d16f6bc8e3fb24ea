"""A softmax bandit that trains through entjax's own step: the smallest policy whose entropy a controller can steer.

Q prompts, T decisions each, V actions; the policy is a table of logits [Q, T, V]. A row's reward is the mean over its
decisions of r(q, t, a), which falls geometrically from the best action to the worst, in another order at every decision, plus
noise. Without help the policy gradient drives the entropy to 0. One run is one compiled scan; `run` may be vmapped over
targets and seeds.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array

from entjax import masked
from entjax.loss import Objective
from entjax.step import init_train_state, make_score, make_train_step
from entjax.types import Rollout


class Bandit(NamedTuple):
    prompts: int = 8
    decisions: int = 6
    actions: int = 8
    group: int = 8
    noise: float = 0.1
    decay: float = 0.6  # r of the n-th best action is decay^n
    learning_rate: float = 0.03


class Table(nnx.Module):
    """hidden[b, t] = table[prompt_b, t]: the logits of the next token; the head is the identity."""

    def __init__(self, bandit: Bandit):
        self.table = nnx.Param(jnp.zeros((bandit.prompts, bandit.decisions + 1, bandit.actions)))
        self.actions = bandit.actions

    def __call__(self, tokens, positions=None):
        return self.table[...][tokens[:, 0]]

    def head(self):
        return jnp.eye(self.actions)


def payoffs(bandit: Bandit) -> Array:
    """r(q, t, a): a geometric ladder, shuffled for every decision."""
    q, t, v = bandit.prompts, bandit.decisions, bandit.actions
    order = jax.random.uniform(jax.random.key(7), (q, t, v)).argsort(-1)
    return (bandit.decay ** jnp.arange(v, dtype=jnp.float32))[order]


def sample(bandit: Bandit, table: Array, key: Array, prompt: Array, temperature: Array) -> Rollout:
    """One row per entry of `prompt`, drawn at its `temperature` [B]; log-probs and entropies are those at temperature 1."""
    at, noise = jax.random.split(key)
    rows = prompt.shape[0]
    logits = table[prompt, : bandit.decisions]
    actions = jax.random.categorical(at, logits / temperature[:, None, None], axis=-1)
    logp = jax.nn.log_softmax(logits, axis=-1)
    chosen = jnp.take_along_axis(logp, actions[..., None], axis=-1)[..., 0]
    entropy = -jnp.sum(jnp.exp(logp) * logp, axis=-1)
    steps = jnp.arange(bandit.decisions)[None, :]
    reward = payoffs(bandit)[prompt[:, None], steps, actions].mean(-1)
    reward = reward + bandit.noise * jax.random.normal(noise, reward.shape)
    first = lambda x: jnp.pad(x, ((0, 0), (1, 0)))
    tokens = jnp.concatenate([prompt[:, None], actions], axis=1).astype(jnp.int32)
    mask = jnp.broadcast_to(jnp.arange(bandit.decisions + 1)[None, :] > 0, tokens.shape)
    group = (jnp.arange(rows) // bandit.group).astype(jnp.int32)
    return Rollout(tokens, mask, first(chosen), first(entropy), first(chosen), reward, group)


def run(
    objective: Objective,
    key: Array,
    *,
    steps: int,
    bandit: Bandit | None = None,
    knobs: dict[str, Any] | None = None,
    tempered: int = 0,
) -> dict[str, Array]:
    """Metrics of every step, plus "reward" and "exact_entropy" (over all decisions, before the step).

    `tempered`: so many more prompts are sampled at knobs["tempered_temperature"] and marked in extra["tempered"].
    """
    bandit = bandit or Bandit()
    model = Table(bandit)
    optimizer = optax.adam(bandit.learning_rate, b1=0.0, b2=0.99)
    score, step = make_score(model, objective), make_train_step(model, objective, optimizer)
    state = init_train_state(model, objective, optimizer, key)
    state = state.replace(knobs={name: jnp.float32(value) for name, value in (knobs or {}).items()})
    prompt = jnp.repeat(jnp.arange(bandit.prompts + tempered) % bandit.prompts, bandit.group)
    hot = jnp.arange(prompt.shape[0]) >= bandit.prompts * bandit.group

    def one(state, _):
        table = jax.tree.leaves(state.params)[0]
        T = jnp.where(hot, state.knobs.get("tempered_temperature", jnp.float32(1.0)), 1.0)
        rollout = sample(bandit, table, jax.random.fold_in(state.key, state.step + 1_000_003), prompt, T)
        if tempered:
            rollout = rollout.replace(extra={"tempered": hot})
        logp = jax.nn.log_softmax(table[:, : bandit.decisions], axis=-1)
        exact = -jnp.sum(jnp.exp(logp) * logp, axis=-1).mean()
        reward = masked.mean(rollout.reward, ~hot)
        state, metrics = step(state, score(state, rollout))
        return state, {**metrics, "exact_entropy": exact, "reward": reward}

    return jax.lax.scan(one, state, None, length=steps)[1]
