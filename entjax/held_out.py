"""Which examples a run trains on and which it is evaluated on; no example is both."""

from __future__ import annotations

from entjax.config import Config, ConfigError
from entjax.tasks import Example, Task

EVAL_START = 1_000_000_000  # endless tasks: held-out prompts start at this index


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
