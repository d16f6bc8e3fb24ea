"""Which tokens of a harvest teach: the gradient of the loss in the hidden state that predicts each token, and what a strategy
handed to the sampler instead of sampling it; both are found without reading a mask."""

import re

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import entjax as ej
from entjax.loss import policy_loss
from entjax.packing import bucket
from entjax.passes import forward
from entjax.rollouts import to_rollout
from entjax.rollouts.stepper import Stepper


def taught(parts, harvest):
    """[N, T] size of the gradient that each token causes, under GRPO with a reward for every row that no other row has."""
    objective, state = ej.recipes.grpo(), parts.fresh_state()
    reward = np.random.default_rng(0).normal(size=len(harvest.reward)).astype(np.float32)
    length = bucket(int(harvest.completions.length.max()))
    plain = harvest._replace(reward=reward, extra={})
    rollout = to_rollout(plain, rows=len(reward), length=length, temperature=1.0)
    rollout = ej.make_score(parts.model, objective)(state, rollout)
    signal, _ = objective.per_rollout.update(ej.Signal.start(rollout), {}, ej.Context(rollout))
    signal, _ = objective.per_step.update(signal, {}, ej.Context(rollout))
    hidden, head = jax.jit(lambda params: forward(nnx.split(parts.model)[0], params, rollout))(state.params)
    loss = jax.jit(jax.grad(lambda hidden: policy_loss(objective, hidden, head, rollout, signal).loss))
    size = np.asarray(jnp.abs(loss(hidden)).max(-1))
    return np.pad(size[:, :-1], ((0, 0), (1, 0)))  # the state at t - 1 predicts token t


def watched(tools, forks, pieces):
    """Tools whose stepper notes the lengths to which rows were taken back, and how many tokens were put behind them."""

    class Watched(Stepper):
        def fork(self, state, rows, length, names):
            forks.append(np.array(length))
            return super().fork(state, rows, length, names)

        def append(self, state, tokens):
            pieces.append(np.array([len(piece) for piece in tokens]))
            return super().append(state, tokens)

    return tools._replace(stepper=Watched(*tools.stepper))


def sampled(harvest, width):
    """[N, T]: behind the prompt and before the end."""
    c, index = harvest.completions, np.arange(width)[None]
    return (index >= c.prompt_length[:, None]) & (index < c.length[:, None])


def branches(harvest, roots):
    """The rows behind the first `roots` of each group, in their order."""
    group = harvest.completions.group
    return np.concatenate([np.flatnonzero(group == g)[roots:] for g in dict.fromkeys(group.tolist())])


def replies(harvest, decode, width):
    """[N, T]: what the calculator said, read off the text: everything from behind a `]` up to `;`."""
    said = np.zeros((len(harvest.texts), width), bool)
    for row, start in enumerate(harvest.completions.prompt_length):
        tokens = harvest.completions.completion(row)
        text = "".join(decode([token]) or "$" for token in tokens)
        for found in re.finditer(r"(?<=\])[0-9/?-]+;", text):
            said[row, start + found.start() : start + found.end()] = True
    return said


def padded(x, width):
    """A per-token array cut or filled to `width` tokens."""
    return np.pad(x[:, :width], ((0, 0), (0, max(0, width - x.shape[1]))))
