"""A whole GRPO step: sample, reward, lay out, update. (a) 8x8, 32+64; (b) 4x16, 256+64; (c) 8x8, lengths spread, up to 256."""

from __future__ import annotations

import jax
import numpy as np

from benchmarks.harness import Row
from benchmarks.work import MODELS, WORK, fresh_state, make_model, make_trainer, rollout_of, work_flops


def rows(models=("4.2M", "30M"), works=("a", "b", "c"), rounds=5):
    """The base is entjax without what makes it fast: plain rows and a scoring pass."""
    for model in models:
        for name in works:
            work, config = WORK[name], MODELS[model]
            decoder = make_model(config, work.eos_every)
            fast, plain = make_trainer(decoder), make_trainer(decoder, packed=False, scored=True)
            completion = count_tokens(fast, decoder, work)
            yield Row(
                f"GRPO {name}, {model}", "one whole step: rollout, rewards, update; float32",
                {**work._asdict(), "model": model, "completion_tokens": completion},
                {"entjax": whole_step(fast, decoder, work), "plain rows, scored": whole_step(plain, decoder, work)},
                "plain rows, scored", work_flops(config, work, completion), rounds,
            )  # fmt: skip


def whole_step(trainer, decoder, work):
    """A closure for one step; the same random key every time, so that every round samples the same tokens."""
    states = [fresh_state(decoder)]

    def run():
        state = states.pop()
        rollout = rollout_of(trainer, state.params, work, jax.random.key(1))
        pack = trainer.plan(rollout)
        state, metrics = trainer.step(state, trainer.score(state, rollout, pack), pack)
        states.append(state)
        return metrics

    return run


def count_tokens(trainer, decoder, work) -> float:
    """Completion tokens of the batch that every round samples."""
    rollout = rollout_of(trainer, fresh_state(decoder).params, work, jax.random.key(1))
    return float(np.asarray(rollout.mask).sum())
