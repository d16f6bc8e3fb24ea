"""The quickstart: RLVR on countdown from a warm start."""

from pathlib import Path

import entjax as ej


def get_config():
    return ej.Config(
        task=ej.tasks.countdown(numbers=3),
        model=str(Path(__file__).parent / "countdown3"),
        recipe="grpo",
        steps=80,
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
