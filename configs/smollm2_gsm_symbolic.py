"""SmolLM2-135M-Instruct on reasoning-gym's GSM-Symbolic word problems, sized for one GPU. Not run.

Command:   entjax convert "$(entjax fetch smollm2)" models/SmolLM2-135M-Instruct
           entjax train configs/smollm2_gsm_symbolic.py
Needs:     pip install -e '.[gguf,tasks,gpu]'
Expect:    nothing is claimed. The model seldom solves a word problem: look at the share of groups with equal rewards first, and
           draw more samples or warm up on configs/smollm2_arithmetic.py (model=FOLDER of `entjax export`) if all are 0.
"""

import entjax as ej
from entjax.tasks.math_words import canonical, numeric

HELD_OUT = 10_000


def problems(*, held_out: bool) -> ej.tasks.Task:
    data = ej.tasks.reasoning_gym("gsm_symbolic")
    assert data.size is not None

    def example(index: int) -> ej.tasks.Example:
        found = data.example(index if held_out else HELD_OUT + index)
        return found._replace(prompt=found.prompt + " Think step by step and end with the number.")

    size = HELD_OUT if held_out else data.size - HELD_OUT
    return ej.tasks.Task("gsm-symbolic", example, size, numeric, canonical=canonical)


def get_config():
    return ej.Config(
        task=problems(held_out=False),
        eval_task=problems(held_out=True),
        model="models/SmolLM2-135M-Instruct",
        model_options={"dtype": "bfloat16"},
        recipe="dapo",
        recipe_options={"max_length": 160, "buffer": 32},
        steps=300,
        prompts=32,
        samples=16,
        max_new_tokens=160,
        minibatches=2,
        lr=1e-5,
        lr_warmup=5,
        dynamic_sampling=2,
        eval_every=50,
        eval_prompts=256,
        eval_samples=4,
        eval_k=(1, 4),
        save_every=50,
    )
