"""The warm start of configs/calculator.py: 700 supervised steps on solutions of which three in ten call the tool.

Command:  entjax train configs/calculator_warm_start.py --workdir runs/warm && entjax export runs/warm configs/calculator
"""

import entjax as ej


def get_config():
    return ej.Config(
        task=ej.tasks.calculator(operands=2, digits=2, tool_share=0.3),
        model=ej.models.tiny(vocab=23, width=64, layers=3, heads=4, context=64),
        strategy=ej.rollouts.multi_turn(ej.tasks.calculator_tool()),
        sft_steps=700,
        sft_batch=96,
        sft_lr=3e-3,
        max_new_tokens=24,
        steps=0,
        prompts=32,
        samples=8,
        eval_prompts=64,
        eval_samples=8,
        eval_k=(1, 4),
    )
