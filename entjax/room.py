"""Prompts that leave no room for an answer: refused before anything is compiled, or left out with `drop_long_prompts`.

A finite task is looked at as a whole. Of a large or endless one a sample is looked at, and then every prompt when it is read:
another stands in for one that is left out, chosen by its index alone, so that every process and a resumed run reads the same.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterable
from typing import NamedTuple

from entjax import distributed
from entjax.config import Config, ConfigError
from entjax.held_out import training_task
from entjax.tasks import Example, Task
from entjax.tasks.task import check_index, stand_ins

WHOLE = 20_000  # examples of the largest task that is encoded as a whole before a run: seconds
SAMPLE, ENDLESS = 500, 32  # examples looked at of a larger one, evenly spaced, and of an endless one
TRIES = 100  # examples looked at in the place of one that leaves no room


class Room(NamedTuple):
    """What a prompt may take of the model's context."""

    config: Config
    encode: Callable[[Example], list[int]]
    context: int

    def fits(self, example: Example) -> bool:
        """Is there room behind this prompt?"""
        if not isinstance(example, Example) or not isinstance(example.prompt, str):
            raise ConfigError(
                f"A task's example(i) must be an ej.tasks.Example whose prompt is a text, got {example!r:.80}."
            )
        length = len(self.encode(example))
        if length < 1:
            raise ConfigError(
                f"The prompt {example.prompt!r} is empty: every prompt needs at least one token."
            )
        return length + self.config.max_new_tokens <= self.context

    def refusal(self, task: Task, index: int, others: str = "") -> ConfigError:
        """What is wrong with this prompt, and what to do."""
        example, new = task.example(index), self.config.max_new_tokens
        drop = (
            ""
            if self.config.drop_long_prompts
            else ", or set drop_long_prompts=true to leave such prompts out"
        )
        return ConfigError(
            f"Example {index} of {task.name} is a prompt of {len(self.encode(example))} tokens ({example.prompt[:60]!r}...)"
            f"{others}; with max_new_tokens={new} it does not fit into the model's context of {self.context} tokens: lower "
            f"max_new_tokens{drop}."
        )

    def looked_at(self, task: Task, trained: int | None) -> Task:
        """The task with prompts that leave room only; its examples before `trained` are the training's."""
        size, whole = task.size, task.size is not None and task.size <= WHOLE
        indices = range(ENDLESS) if size is None else range(size)
        if size is not None and not whole:
            indices = [i * size // SAMPLE for i in range(SAMPLE)]
        kept = [i for i in indices if self.fits(task.example(i))]
        long = len(indices) - len(kept)
        if long and not (self.config.drop_long_prompts and kept):
            first = min(set(indices) - set(kept))
            raise self.refusal(task, first, f", one of {long} too long among {len(indices)} looked at")
        if long and distributed.first():
            print(f"{long} of {len(indices)} prompts of {task.name} that were looked at leave no room for max_new_tokens="
                  f"{self.config.max_new_tokens}: such prompts are left out.", file=sys.stderr)  # fmt: skip
        if not whole:
            return self.watched(task, trained)
        return task._replace(example=lambda i: task.example(kept[i]), size=len(kept)) if long else task

    def watched(self, task: Task, trained: int | None) -> Task:
        """The task with a look at each prompt when it is read."""

        def example(index: int) -> Example:
            check_index(index, task.size, task.name)
            for i in on_its_side(index, task.size, trained):
                found = task.example(i)
                if self.fits(found):
                    return found
                if not self.config.drop_long_prompts:
                    break
            raise self.refusal(task, index)

        return task._replace(example=example)


def on_its_side(index: int, size: int | None, trained: int | None) -> Iterable[int]:
    """The index itself, then those of the examples in its place: of the same side of a split at `trained`."""
    if size is None:
        return stand_ins(index, None, TRIES)
    start, end = (0, trained or size) if trained is None or index < trained else (trained, size)
    return (start + other for other in stand_ins(index - start, end - start, TRIES))


def with_room(config: Config, encode: Callable[[Example], list[int]], context: int) -> Config:
    """The config with tasks of which every prompt leaves room for an answer."""
    room, held_out, trained = Room(config, encode, context), config.eval_task, training_task(config).size
    if held_out is not None:  # a run reads its first prompts only
        held_out = (room.looked_at if config.drop_long_prompts else room.watched)(held_out, held_out.size)
    return dataclasses.replace(config, task=room.looked_at(config.task, trained), eval_task=held_out)
