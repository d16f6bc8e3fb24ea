"""Supervised warm start: a few hundred steps on worked solutions of the task, before the first rollout.

loss = -(1/n) sum over answer tokens of log p(token), or another loss on text
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import optax
from flax import nnx

from entjax import sft, sharding
from entjax.models.lora import split
from entjax.tasks import Example, Task, Tokenizer
from entjax.tasks.task import rng_of


def solutions(
    task: Task, tokenizer: Tokenizer, encode: Callable[[Example], list[int]], *, seed: int, length: int
) -> Callable[[int, int], tuple[np.ndarray, np.ndarray]]:
    """batch(step, size) -> (tokens, mask [size, length]) of prompts with worked answers and the end mark, deterministic.

    `encode` gives the tokens of a prompt as rollouts will read it. Of an example without a solution nothing is learned; one that
    is longer than `length` is cut.
    """
    if task.solution is None:
        raise ValueError(f"The task {task.name} offers no worked solutions.")
    solve = task.solution

    def row(index: int) -> tuple[list[int], int]:
        example = task.example(index if task.size is None else index % task.size)
        prompt = encode(example)
        answer = solve(example, rng_of("warmup", seed, index))
        if answer is None:
            return [], 0
        return [*prompt, *tokenizer.encode(answer), tokenizer.eos_id][:length], len(prompt)

    def batch(step: int, size: int) -> tuple[np.ndarray, np.ndarray]:
        tokens = np.full((size, length), tokenizer.pad_id, np.int32)
        mask = np.zeros((size, length), bool)
        for i in range(size):
            ids, prompt = row(step * size + i)
            tokens[i, : len(ids)] = ids
            mask[i, prompt : len(ids)] = True
        if not mask.any():
            raise ValueError(
                f"The {size} examples of a warm-up step have no worked solution: task {task.name} gives None. Set sft_steps=0."
            )
        return tokens, mask  # on the host: every device takes what it needs

    return batch


def warm_up(
    model: nnx.Module,
    params: Any,
    batch: Callable,
    *,
    steps: int,
    size: int,
    lr: float,
    chunk: int,
    report: Callable,
    loss: sft.TextLoss | None = None,
    teacher: nnx.Module | None = None,
) -> Any:
    """`params` after `steps` supervised steps with a cosine schedule; `report(step, loss)` now and then."""
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(optax.cosine_decay_schedule(lr, steps), weight_decay=0.0)
    )
    opt_state = sharding.beside(lambda params: optimizer.init(split(params)[0]), params)
    step = sft.make_text_step(model, loss or sft.nll(), optimizer, teacher=teacher, chunk=chunk)
    known = None if teacher is None else nnx.state(teacher, nnx.Param)
    for i in range(steps):
        params, opt_state, value = step(params, opt_state, *batch(i, size), known)
        if i % 20 == 19 or i == steps - 1:
            report(i + 1, float(value))
    return params
