"""The runs that are killed: a plain one, and one in which everything that has a state is in play."""

import entjax as ej
from tests.faults.verifier import contains_a_one


def _countdown(**about):
    return ej.tasks.countdown(numbers=2)._replace(**{"verify": contains_a_one(), **about})


def _base(**changes):
    base = {
        "task": _countdown(),
        "model": ej.models.tiny(vocab=20, width=16, layers=1, heads=2, context=64),
        "prompts": 4, "samples": 4, "max_new_tokens": 9, "lr": 1e-3, "chunk": 64,
        "eval_every": 4, "eval_prompts": 2, "eval_samples": 2, "eval_k": (1, 2), "save_every": 2, "keep": 2,
        "log_samples": 3,
    }  # fmt: skip
    return ej.Config(**{**base, **changes})


def plain(steps):
    """GRPO, one optimizer step a rollout, a warm start."""
    return _base(steps=steps, sft_steps=6, sft_batch=8)


def everything(steps):
    """A controlled entropy bonus, a temperature that a controller sets for the next rollout, a moving reference, a replay buffer,
    two optimizer steps a rollout with warm-up and decay, verifiers in worker processes."""
    temperature = ej.tunable(
        "heat",
        lambda signal, context, *, t: signal.replace(knobs={**signal.knobs, "temperature": 1.0 + t}),
        {"t": ej.control.pi(target=2.991, kp=20.0, ki=2.0, low=-0.2, high=0.3)},
        writes={"knobs"},
        knobs={"temperature"},
    )
    objective = ej.Objective(
        per_rollout=ej.chain(
            ej.advantages.group_normalize(),
            ej.advantages.replay_baseline(capacity=32),
            ej.advantages.replay_weight(),
        ),
        per_step=ej.chain(
            ej.clips.asymmetric(low=0.2, high=0.28),
            temperature,
            ej.regularizers.entropy(coef=ej.control.pi(target=2.995, kp=1.0, ki=0.1, high=0.1)),
            ej.regularizers.kl(1e-3),
        ),
        reference_decay=0.9,
    )
    return _base(
        task=_countdown(verify=None, verifier=ej.tasks.Spec("tests.faults.verifier:contains_a_one")),
        objective=objective,
        strategy=ej.rollouts.replay(size=4, ready=0.5, tolerate=6, history=32),
        minibatches=2,
        lr_warmup=4,
        lr_decay="cosine",
        steps=steps,
    )


def pair(steps):
    """`everything` on a mesh, for several processes."""
    import dataclasses

    return dataclasses.replace(everything(steps), mesh={"fsdp": -1})
