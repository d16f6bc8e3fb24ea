"""What a task is: prompts that can be asked for by index, and a verifier that turns an answer into a reward.

Everything here is plain data and plain functions, so that an `Example` can be written as one line of JSON to
a worker process and a `Task` can be named in a config as a call: `task=ej.tasks.countdown(numbers=3)`.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

PRIME, GOLDEN = (
    1_000_003,
    0.6180339887,
)  # how far from an example its stand-in is, in an endless task and as a share of another


class Example(NamedTuple):
    """One prompt with what its verifier needs; `answer` and `meta` hold JSON values (no tuples, no arrays)."""

    prompt: str
    answer: Any = None
    meta: dict[str, Any] | None = None


class Spec(NamedTuple):
    """How a worker process rebuilds a verifier: `factory` is "module:function", `kwargs` are JSON values.

    The factory returns a function `(Example, text) -> float`. The string comes from the program, never from a
    model.
    """

    factory: str
    kwargs: dict[str, Any] | None = None


class Task(NamedTuple):
    """Prompts and a verifier.

    example:   index -> Example; the same index always gives the same example.
    size:      number of examples, or None when they never end.
    verify:    (example, text) -> reward in [0, 1], which an objective may shape: verdicts of -1 and 1 are 0 and 1
               here and advantages.raw(baseline=0.5, scale=2.0) there. Anything else is 0 and counted, and ends a
               run when it is all that a first batch gets. Pure; never runs the text as code. It is called in this
               process and nothing bounds its time: a call that hangs holds up the run for ever, so it must be
               quick on any text (our own linear-time parsers are).
    verifier:  the recipe by which the bounded pool builds the function in worker processes, under limits of
               time and memory: for anything else. Where there is one, a run asks it and not `verify`, which may
               be None.
    alphabet:  the characters of prompts and answers, for character-level models; None for natural language.
    solution:  (example, rng) -> one worked answer, without the end-of-sequence mark; sampled, so that a warm
               start sees many.
    canonical: (example, text) -> the answer in a form in which equal answers are equal strings, or None when
               the text holds none; for majority votes and for counting distinct correct answers.
    """

    name: str
    example: Callable[[int], Example]
    size: int | None
    verify: Callable[[Example, str], float] | None
    verifier: Spec | None = None
    alphabet: str | None = None
    solution: Callable[[Example, random.Random], str | None] | None = None
    canonical: Callable[[Example, str], str | None] | None = None


def check_verifier(task: Task) -> None:
    """Refuse a task without a verifier, and one of entjax whose `verify` was replaced: in silence the pool
    would go on with the old one.
    """
    own = task.verifier is not None and task.verifier.factory.startswith("entjax.")
    replaced = own and task.verify is not None and getattr(task.verify, "spec", None) != task.verifier
    if not replaced and (task.verify is not None or task.verifier is not None):
        return
    what = "a verify= beside the verifier that it came with" if replaced else "no verifier"
    raise ValueError(
        f"The task {task.name} has {what}: give verify=FUNCTION, verifier=None to judge in this process without"
        " a limit of time, or verifier=Spec(...), verify=None to judge in worker processes."
    )


def same_as(spec: Spec, verify: Callable[[Example, str], float]) -> Callable[[Example, str], float]:
    """`verify` marked as what the pool builds from `spec`."""
    setattr(verify, "spec", spec)  # noqa: B010  (a function takes any attribute, a type checker none)
    return verify


def check_index(index: int, size: int | None, name: str) -> None:
    """Refuse an index outside the task, so that a wrong position never silently wraps."""
    if index < 0 or (size is not None and index >= size):
        raise IndexError(
            f"{name} has no example {index}: indices go from 0 to {'...' if size is None else size - 1}."
        )


def stand_ins(index: int, size: int | None, tries: int) -> Iterator[int]:
    """The index, then those of examples that may stand in its place: far from it and from each other, `tries` different ones
    where there are so many, and of the index alone, so that every process and a resumed run finds the same.
    """
    stride = PRIME if size is None else max(round(GOLDEN * size), 1)
    while size is not None and size // math.gcd(stride, size) < min(tries, size):
        stride += 1
    for other in range(index, index + tries * stride, stride):
        yield other if size is None else other % size


def rng_of(*parts: object) -> random.Random:
    """A generator that depends on the parts only. Seeding with a string is stable over processes and Python
    versions.
    """
    return random.Random("/".join(str(part) for part in parts))
