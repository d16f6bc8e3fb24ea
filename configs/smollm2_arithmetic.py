"""SmolLM2-135M-Instruct learns two-term sums of reasoning-gym with GRPO, in full float32, on two CPU cores.

Command:   entjax convert "$(entjax fetch smollm2)" models/SmolLM2-135M-Instruct
           entjax train configs/smollm2_arithmetic.py
Needs:     pip install -e '.[gguf,tasks]'
Expect:    44 minutes in 40 steps (rollout 20 s, update 43 s, medians) on two cores that had other work as well. Held-out accuracy
           of answers sampled at temperature 1, 96 questions x 4: 6% at the start, 39% after 20 steps, 31% after 40; entropy 2.2,
           0.18 and 0.16 nats a token. Greedy: 16% before, 36% after. More in docs/smollm2.md. One seed.
Questions: chain_sum with two numbers of one or two digits. A quarter of all questions, chosen by a hash of the text, is held out:
           training never sees them. The library's own scorer takes bare numbers only; here the last number in the reply counts,
           right or wrong, so that a gain is not a matter of format alone.
"""

import zlib

import entjax as ej
from entjax.tasks.math_words import canonical, numeric

WINDOW = 64  # questions looked at for each example: all of one side has probability 1e-8 at most


def sums(*, held_out: bool) -> ej.tasks.Task:
    data = ej.tasks.reasoning_gym("chain_sum", min_terms=2, max_terms=2, min_digits=1, max_digits=2)
    assert data.size is not None

    def example(index: int) -> ej.tasks.Example:
        found = (data.example(WINDOW * index + i) for i in range(WINDOW))
        chosen = next(e for e in found if (zlib.crc32(e.prompt.encode()) % 4 == 0) == held_out)
        return chosen._replace(prompt=chosen.prompt + " Answer with just the number.")

    return ej.tasks.Task("two-term-sums", example, data.size // WINDOW, numeric, canonical=canonical)


def get_config():
    return ej.Config(
        task=sums(held_out=False),
        eval_task=sums(held_out=True),
        model="models/SmolLM2-135M-Instruct",
        recipe="grpo",
        steps=40,
        prompts=8,
        samples=8,
        max_new_tokens=16,
        lr=3e-5,
        lr_warmup=2,
        chunk=512,
        eval_every=20,
        eval_prompts=96,
        eval_samples=4,
        eval_k=(1, 4),
        save_every=20,
        keep=1,
    )
