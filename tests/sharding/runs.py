"""What the tests of meshes and processes share: a tiny config, one step of it, and the comparison of two runs."""

import json

import jax
import numpy as np
import optax

import entjax as ej
from entjax import setup
from entjax.log import read_lines
from entjax.rollouts import replay, to_rollout
from tests.records import untimed

ROWS, LENGTH = 32, 16


def holds_a_one(example, text):
    """A reward that an untrained model earns a third of the time, so that there is something to learn from the first step."""
    return float("1" in text)


def config(**changes):
    countdown = ej.tasks.countdown(numbers=2)._replace(verify=holds_a_one)
    base = {
        "task": countdown,
        "model": ej.models.tiny(vocab=20, width=32, layers=1, heads=4, kv_heads=2, context=64),
        "steps": 4, "prompts": 4, "samples": 8, "max_new_tokens": 9, "lr": 1e-3, "chunk": 64,
        "eval_every": 0, "eval_prompts": 4, "eval_samples": 4, "eval_k": (1, 4), "save_every": 2, "keep": 3,
        "log_samples": ROWS,
    }  # fmt: skip
    return ej.Config(**{**base, **changes})


def replaying(**changes):
    """The same with eight successes of earlier steps in every batch that has them."""
    return config(strategy=replay(size=8, ready=1.0), recipe="reinforce", **changes)


def one_step(c, weights=None, packed=False):
    """(tokens, loss, gradient, weights before) of one rollout and one step of plain gradient descent, on the host; `packed`:
    the passes compute the places of a pack."""
    parts = setup.build(c)
    optimizer = optax.sgd(1.0)
    parts = parts._replace(
        optimizer=optimizer,
        step=setup.placed(
            parts.layout, setup.make_step(c, parts.model, parts.objective, optimizer, parts.layout)
        ),
    )
    state = parts.fresh_state()
    if weights is not None:
        put = lambda old, new: jax.device_put(new, old.sharding)
        state = state.replace(params=jax.tree.map(put, state.params, weights))
    before = jax.device_get(state.params)
    harvest = parts.strategy(parts.tools(state.params, 0), parts.stream.next(), 0, {})
    rollout = to_rollout(harvest, rows=ROWS, length=LENGTH, temperature=1.0)
    # An untrained model earns nothing: a reward that is a fact of the tokens gives the step something to do.
    reward = (rollout.tokens.sum(1) % 3 == 0).astype(np.float32)
    pack = parts.plan(rollout) if packed else None
    assert packed == (pack is not None)
    rollout = parts.score(state, rollout.replace(reward=reward), pack)
    tokens = np.asarray(rollout.tokens)
    state, metrics = parts.step(state, rollout, pack)
    parts.close()
    gradient = jax.tree.map(lambda old, new: old - new, before, jax.device_get(state.params))
    return tokens, float(metrics["loss"]), gradient, before


def curves(workdir):
    """Metrics of every step, times left out."""
    return untimed(read_lines(workdir / "metrics.jsonl"), "device/")


def first_difference(one, other):
    """(step, row, the two texts) of the first completion that differs between two run directories, or None."""
    pairs = zip(read_lines(one / "samples.jsonl"), read_lines(other / "samples.jsonl"), strict=True)
    for number, (a, b) in enumerate(pairs):
        if a["text"] != b["text"]:
            return a["step"], number % ROWS, json.dumps(a["text"]), json.dumps(b["text"])
    return None


def largest_gap(one, other, names=("reward/mean", "entropy/mean", "loss", "grad_norm")):
    """The largest absolute difference of each named metric over all steps."""
    pairs = list(zip(curves(one), curves(other), strict=True))
    return {name: max(abs(a[name] - b[name]) for a, b in pairs if name in a) for name in names}
