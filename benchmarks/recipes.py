"""What a recipe costs: whole steps (rollout, rewards, scoring, update) of the study's arms, on its hard task with its sizes.

Random weights and next to no learning rate: every round samples completions of the same lengths. AEPO's strategy samples a
quarter more.
"""

from __future__ import annotations

import dataclasses

from benchmarks.harness import Row
from benchmarks.work import MODELS
from entjax import setup
from entjax.batch import make_batch
from entjax.studies import grid
from entjax.studies.cells import Size


def rows(models=("tiny", "4.2M"), arms=grid.FIRST, rounds=3):
    """A row a model; `tiny` is the study's."""
    for name in models:
        yield Row(
            f"recipes, {name}", "a whole step of the study's hard setting, float32", {"model": name},
            {arm: _step(arm, name) for arm in arms}, "grpo", 0.0, rounds,
        )  # fmt: skip


def _step(arm: str, model: str):
    setting = grid.settings()["hard"]
    decoder = setting.policy()
    if model != "tiny":
        decoder = dataclasses.replace(MODELS[model], vocab=setting.vocab)
    chosen = grid.arms(Size().steps, setting.target)[arm]
    parts = setup.build(setting.config(chosen, decoder, **Size()._asdict() | {"lr": 1e-30}))
    states, memory = [parts.fresh_state()], dict(parts.strategy.start)

    def run():
        batch = make_batch(parts, states[0], 0, memory)
        state, metrics = parts.step(states.pop(), batch.rollout, batch.pack)
        states.append(state)
        return metrics

    return run
