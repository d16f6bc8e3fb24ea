"""Which examples a run trains on and which it is evaluated on; no example is both."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from entjax import distributed
from entjax.config import Config, ConfigError
from entjax.tasks import Example, Task

EVAL_START = 1_000_000_000  # endless tasks: held-out prompts start at this index
LOOK = 500  # training examples that are compared with the held-out ones before a run


def evaluated_task(config: Config) -> Task:
    """Where held-out prompts come from."""
    return config.eval_task or config.task


def training_task(config: Config) -> Task:
    """What is trained on: the task, without its last examples where they are the evaluation's."""
    task = config.task
    if config.eval_task is not None or task.size is None:
        return task
    if task.size < 2:
        raise ConfigError(
            f"{task.name} has {task.size} example: give eval_task, or a task with two at least."
        )
    return task._replace(size=task.size - min(config.eval_prompts, task.size // 2))


def kept_back(config: Config) -> int | None:
    """How many examples a run keeps for its evaluation and does not train on; None: there is no end of them."""
    if config.eval_task is not None or config.task.size is None:
        return None
    return config.task.size - training_task(config).size


def eval_examples(config: Config) -> list[Example]:
    """Fixed held-out prompts: the first of `eval_task`; without one, of an endless training task far beyond what a run consumes,
    of another the last ones, at most half, which `training_task` leaves out."""
    task, count = evaluated_task(config), config.eval_prompts
    if task.size is None:
        indices = range(EVAL_START, EVAL_START + count)
    elif config.eval_task is None:
        indices = range(training_task(config).size, task.size)
    else:
        indices = range(min(count, task.size))
    return [task.example(i) for i in indices]


def say_what_is_shared(config: Config, held_out: Sequence[Example]) -> None:
    """A warning where questions of the evaluation are among those trained on, of which a sample is looked at."""
    if not (config.eval_every and distributed.first()):
        return
    task = training_task(config)
    size = task.size
    spread = [] if size is None else [i * size // LOOK for i in range(LOOK)]
    indices = {*range(LOOK if size is None else min(LOOK, size)), *spread}
    trained = {_prompt(task.example(i)) for i in sorted(indices)} - {None}
    shared = sum(_prompt(example) in trained for example in held_out)
    if shared and len(trained) > 1:  # where all examples have one prompt it says nothing
        print(
            f"{shared} of the {len(held_out)} evaluation prompts are also among the {len(indices)} training prompts looked at (of"
            f" {'endlessly many' if size is None else size}), so the evaluation is in part of what is trained: task, eval_task ="
            " ej.tasks.split(TASK) parts a task by its prompts.",
            file=sys.stderr,
        )


def _prompt(example: Example) -> str | None:
    """None for what is no example or has no text for a prompt, of which `room` will tell."""
    prompt = example.prompt if isinstance(example, Example) else None
    return prompt if isinstance(prompt, str) else None
