"""A whole GRPO step: sample, reward, lay out, update. (a) 8x8, 32+64; (b) 4x16, 256+64; (c) 8x8, lengths spread, up to 256."""

from __future__ import annotations

import jax
import numpy as np

from benchmarks.harness import Row
from benchmarks.peers import peer
from benchmarks.work import MODELS, WORK, fresh_state, make_model, make_trainer, rollout_of, work_flops


def rows(models=("4.2M", "30M"), works=("a", "b", "c"), rounds=5, peers=False, only=""):
    """The base is entjax. Beside it, itself without what makes it fast (plain rows, a scoring pass), or with `peers` TRL and
    Tunix (`only=trl`: one of them) on the same weights, prompts and sizes: their ratios say how many times longer they take."""
    for model in models:
        for name in works:
            work, config = WORK[name], MODELS[model]
            decoder = make_model(config, work.eos_every)
            fast = make_trainer(decoder)
            completion = count_tokens(fast, decoder, work)
            others = peer.start(decoder, work, "grpo", only) if peers else {}
            slow = make_trainer(decoder, packed=False, scored=True)
            programs = {"entjax": whole_step(fast, decoder, work)} | (
                {label: other.step for label, other in others.items()}
                or {"plain rows, scored": whole_step(slow, decoder, work)}
            )
            try:
                yield Row(
                    f"GRPO {name}, {model}" + (", peers" if peers else "") + (f", {only}" if only else ""),
                    "one whole step: rollout, rewards, update; float32",
                    {**work._asdict(), "model": model}, programs, "entjax",
                    work_flops(config, work, completion), rounds,
                    {"completion tokens": completion} | {
                        f"completion tokens, {label}": lambda other=other: other.last["tokens"]
                        for label, other in others.items()},
                )  # fmt: skip
            finally:
                for other in others.values():
                    other.close()


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
