"""Distillation on the quickstart's task: a student of a quarter of its warm start's size learns from that, without rewards.

After a short supervised start the teacher writes half of the text and the student the other half; the loss is the exact KL over
the vocabulary, mostly forward.

Command:   entjax train configs/distill.py          (on-policy: recipe.reverse=1 strategy=groups; sampled tokens: recipe=opd)
Hardware:  two CPU cores, a few minutes, no downloads.
Expect:    see "Distillation" in docs/rollouts.md.
"""

import entjax as ej


def get_config():
    return ej.Config(
        task=ej.tasks.countdown(numbers=3),
        model=ej.models.tiny(vocab=19, width=32, layers=3, heads=4, context=64),
        teacher=str(ej.config.shipped_configs() / "countdown3"),
        recipe="distill",
        recipe_options={"reverse": 0.2},
        strategy=ej.rollouts.taught(0.5),
        sft_steps=300,
        sft_batch=128,
        steps=60,
        prompts=32,
        samples=8,
        max_new_tokens=19,
        lr=1e-3,
        lr_warmup=6,
        lr_decay="cosine",
        eval_every=20,
        eval_prompts=64,
        eval_samples=16,
        eval_k=(1, 16),
    )
