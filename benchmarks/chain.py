"""What the chains of an objective cost: their own program, beside the step of a 30M model that they belong to."""

from __future__ import annotations

import jax

import entjax as ej
from benchmarks.harness import Row
from benchmarks.work import MODELS, WORK, fresh_state, make_model, make_trainer, rollout_of


def rows(model="30M", rounds=5):
    """A long chain: group advantages, an entropy bonus, clips, predicted-entropy weights, a controlled bonus, an average."""
    work, decoder = WORK["a"], make_model(MODELS[model])
    objective = ej.Objective(
        per_rollout=ej.chain(
            ej.advantages.group_normalize(), ej.advantages.entropy_bonus(alpha=0.4, kappa=2.0)
        ),
        per_step=ej.chain(
            ej.clips.asymmetric(low=0.2, high=0.28), ej.weights.clip_cov(), ej.weights.zero_variance(),
            ej.averages.token_mean(),
        ),
    )  # fmt: skip
    trainer = make_trainer(decoder)
    rollout = rollout_of(trainer, fresh_state(decoder).params, work, jax.random.key(1))
    stats = {
        "logp": rollout.logp,
        "entropy": rollout.entropy,
        "prob_sq": rollout.entropy,
        "prob_sq_logp": rollout.logp,
    }
    state, key = objective.init(), jax.random.key(0)

    @jax.jit
    def chains(rollout):
        context = ej.Context(rollout, stats, 0, key)
        signal, _ = objective.per_rollout.update(ej.Signal.start(rollout), state["per_rollout"], context)
        return objective.per_step.update(signal, state["per_step"], context)[0]

    states, pack = [fresh_state(decoder)], trainer.plan(rollout)

    def step():
        new, metrics = trainer.step(states.pop(), rollout.replace(old_logp=None), pack)
        states.append(new)
        return metrics

    yield Row(
        f"chain, {model}", "two chains of six transforms on a batch, against one optimizer step",
        {**work._asdict(), "model": model}, {"step": step, "chains alone": lambda: chains(rollout)}, "step", 0.0, rounds,
    )  # fmt: skip
