"""The quickstart: RLVR on countdown (reach a number from three digits) from a warm start, entropy held while the model learns.

Command:   entjax train configs/quickstart.py            (or recipe=grpo, recipe=steer, ...: `entjax methods` lists them)
Hardware:  two CPU cores, a few minutes, no downloads. The warm start (152,000 parameters) is made by configs/warm_start.py.
Expect:    see "The quickstart, measured" in the README. Evaluation is on fresh prompts of the training distribution.
"""

import entjax as ej


def get_config():
    return ej.Config(
        task=ej.tasks.countdown(numbers=3),
        model=str(ej.config.shipped_configs() / "countdown3"),
        recipe="entropy_budget",
        recipe_options={"target": 0.18},
        steps=120,
        prompts=32,
        samples=16,
        minibatches=2,
        max_new_tokens=19,
        lr=2e-4,
        eval_every=20,
        eval_prompts=128,
        eval_samples=16,
        eval_k=(1, 4, 16),
    )
