"""The warm start of the quickstart: 600 supervised steps on worked countdown solutions.

Command:  entjax train configs/warm_start.py --workdir runs/warm && entjax export runs/warm configs/countdown3
"""

import entjax as ej


def get_config():
    return ej.Config(
        task=ej.tasks.countdown(numbers=3),
        model=ej.models.tiny(vocab=19, width=64, layers=3, heads=4, context=64),
        sft_steps=600,
        sft_batch=256,
        sft_lr=3e-3,
        max_new_tokens=19,
        steps=0,
        eval_prompts=256,
        eval_samples=32,
        eval_k=(1, 4, 16, 32),
    )
