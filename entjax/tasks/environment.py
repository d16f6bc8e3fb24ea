"""What answers a model in the middle of its completion: a tool, a game, a user; text in, text out.

    world = environment.reset(example)
    turn  = environment.step(world, text of the model's turn)     # turn.world, turn.reply, turn.done

A turn of the model ends with one of `stops` (the end mark of a tool call); a completion that ends otherwise is not stepped.
A world is a value: `step` returns a new one and leaves the old one as it was, because branches of a rollout share their past.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from entjax.tasks.task import Example


class Turn(NamedTuple):
    """How the environment answers: `reply` is put behind the model's turn, outside the loss; `done` ends the trajectory."""

    world: Any
    reply: str
    done: bool = False


class Environment(NamedTuple):
    """A protocol of two functions; `turns` bounds how often a trajectory is answered."""

    name: str
    reset: Callable[[Example], Any]
    step: Callable[[Any, str], Turn]
    stops: tuple[str, ...]
    turns: int = 8


def silent(*stops: str, turns: int = 64) -> Environment:
    """Answers nothing: it only cuts completions into steps that end with one of `stops`, for strategies that branch at steps."""
    if not stops or not all(stops):
        raise ValueError(f"silent() needs the strings that end a step, got {stops!r}.")
    return Environment("silent", lambda example: (), lambda world, text: Turn(world, ""), stops, turns)
