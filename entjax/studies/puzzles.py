"""Three data sets of reasoning-gym for a character-level policy: short prompts, the same examples and the library's own scorer.

reasoning-gym draws example i of a seed from the number seed + i: seeds closer than a data set is large share examples.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterator
from typing import Any

from entjax import tasks
from entjax.tasks import Example, Task
from entjax.tasks.reasoning_gym import unpack

OPERATIONS = {
    "add": ("+", lambda number, by: number + by),
    "subtract": ("-", lambda number, by: number - by),
    "multiply": ("*", lambda number, by: number * by),
}


def chain_sum(seed: int) -> Task:
    """`45+7-12=`: two or three numbers of one or two digits; one right answer."""
    task = tasks.reasoning_gym("chain_sum", seed=seed, min_terms=2, max_terms=3, min_digits=1, max_digits=2)

    def short(example: Example) -> str:
        return example.prompt.split(":")[-1].replace(" ", "")

    return _characters(task, short, lambda example, rng: example.answer, "0123456789+-*=,>:")


def palindrome(seed: int) -> Task:
    """Letters to arrange into a palindrome: often many right answers."""
    task = tasks.reasoning_gym("palindrome_generation", seed=seed, min_length=4, max_length=9)

    def short(example: Example) -> str:
        return example.prompt.split(":")[-1].strip().replace(", ", "") + ">"

    def solution(example: Example, rng: random.Random) -> str:
        half = list(example.answer[: len(example.answer) // 2])
        rng.shuffle(half)
        middle = example.answer[len(half) : len(example.answer) - len(half)]
        return "".join(half) + middle + "".join(reversed(half))

    return _characters(task, short, solution, "abcdefghijklmnopqrstuvwxyz>")


def quantum_lock(held_out: bool) -> Task:
    """`14,+2a,*2g,-1r>`: the buttons A, B and C lead from 0 to 14 in as few presses as can be; each press turns the light, red at
    first, and a button may act in red, in green or in any light only. Often many right answers; a longer way earns a half.

    Most puzzles of this size come up again within ten thousand, so a tenth of them is held out, whatever the order of
    their characters."""
    task = tasks.reasoning_gym("quantum_lock", seed=1, difficulty=5)

    def short(example: Example) -> str:
        lock = _lock(example)
        buttons = (f"{OPERATIONS[b['type']][0]}{b['value']}{b['active_state'][0]}" for b in lock["buttons"])
        return ",".join((str(lock["target_value"]), *buttons)) + ">"

    def solution(example: Example, rng: random.Random) -> str:
        """Any of the shortest, each as likely."""
        lock = _lock(example)

        @functools.cache
        def ways(left: int, number: int, light: str) -> int:
            """In how many ways do `left` presses lead from here to the target?"""
            if not left:
                return int(number == lock["target_value"])
            return sum(ways(left - 1, *there) for _, there in _presses(lock, number, light))

        here, pressed = (lock["initial_value"], lock["initial_state"]), []
        for left in reversed(range(len(lock["solution_path"]))):
            names, places = zip(*_presses(lock, *here), strict=True)
            index = rng.choices(range(len(names)), [ways(left, *place) for place in places])[0]
            pressed.append(names[index])
            here = places[index]
        return "".join(pressed)

    whole = _characters(task, short, solution, "0123456789ABC+-*,rga>")
    return tasks.split(whole, key=lambda prompt: "".join(sorted(prompt)))[held_out]


def _lock(example: Example) -> dict[str, Any]:
    assert example.meta is not None
    return unpack(example.meta["entry"])["metadata"]


def _presses(lock: dict[str, Any], number: int, light: str) -> Iterator[tuple[str, tuple[int, str]]]:
    """The buttons that act now, each with the number and the light after it."""
    for button in lock["buttons"]:
        if button["active_state"] in (light, "any"):
            _, change = OPERATIONS[button["type"]]
            yield button["name"], (change(number, button["value"]), "green" if light == "red" else "red")


def _characters(task: Task, short: Callable, solution: Callable, alphabet: str) -> Task:
    """The task for a character-level policy: shorter prompts, the same examples and the library's own scorer."""

    def example(index: int) -> Example:
        whole = task.example(index)
        return whole._replace(prompt=short(whole))

    return task._replace(example=example, alphabet=alphabet, solution=solution)
