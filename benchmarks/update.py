"""One optimizer step on given rollouts: packed places against plain rows, and the passes that it needs."""

from __future__ import annotations

import jax
import numpy as np

from benchmarks.harness import Row
from benchmarks.work import MODELS, WORK, fresh_state, make_model, make_trainer, rollout_of, work_flops
from entjax import packing


def rows(model="4.2M", works=("a", "b", "c"), rounds=5):
    """A row for each kind of work; the base is what `grpo` runs."""
    for name in works:
        work, config = WORK[name], MODELS[model]
        decoder = make_model(config, work.eos_every)
        trainers = {
            "plain rows, scored": make_trainer(decoder, packed=False, scored=True),
            "plain rows": make_trainer(decoder, packed=False),
            "packed, scored": make_trainer(decoder, scored=True),
            "packed": make_trainer(decoder),
        }
        rollout = rollout_of(trainers["packed"], fresh_state(decoder).params, work, jax.random.key(1))
        pack = trainers["packed"].plan(rollout)
        completion = float(np.asarray(rollout.mask).sum())
        yield Row(
            f"update {name}, {model}", "one optimizer step of GRPO, whole batch, float32",
            {**work._asdict(), "model": model, "completion_tokens": completion},
            {label: _update(trainer, decoder, rollout) for label, trainer in trainers.items()},
            "packed", work_flops(config, work, completion, update_only=True), rounds,
            {"real share of computed tokens, plain": packing.plain_share(rollout),
             "real share of computed tokens, packed": packing.share(pack) if pack else None,
             "places": pack.computed if pack else None, "rows x length": rollout.mask.size},
        )  # fmt: skip


def _update(trainer, decoder, rollout):
    """A closure that goes on from its own state; weights do not move, so every round does the same."""
    states = [fresh_state(decoder)]

    def run():
        pack, state = trainer.plan(rollout), states.pop()
        state, metrics = trainer.step(state, trainer.score(state, rollout, pack), pack)
        states.append(state)
        return metrics

    return run
