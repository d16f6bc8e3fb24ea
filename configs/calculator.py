"""A tool learned from reward: + - * of two-digit numbers, a calculator that answers `[37*48]`, GRPO on conversations.

The warm start calls the tool in a quarter of its answers and guesses the result in the others; what the tool says is outside the
loss. `turns/call_rate` is the share of trajectories with a call, `eval/call_rate` the same on held-out prompts.

Command:   entjax train configs/calculator.py
Hardware:  two CPU cores, a few minutes, no downloads. The warm start (152,000 parameters): configs/calculator_warm_start.py.
Expect:    see "A tool learned from reward" in docs/rollouts.md.
"""

import entjax as ej


def get_config():
    return ej.Config(
        task=ej.tasks.calculator(operands=2, digits=2),
        model=str(ej.config.shipped_configs() / "calculator"),
        strategy=ej.rollouts.multi_turn(ej.tasks.calculator_tool()),
        recipe="grpo",
        steps=60,
        prompts=32,
        samples=8,
        max_new_tokens=24,
        lr=3e-4,
        eval_every=10,
        eval_prompts=64,
        eval_samples=8,
        eval_k=(1, 4),
    )
