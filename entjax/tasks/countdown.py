"""Countdown: combine all given digits with + - * to reach a target, showing every step.

The prompt is `572>24:`, an answer is `5*2=10,10+7=17` followed by the end of the sequence (the character `$`,
which may also stand in the text). Every step takes two numbers that are available (the digits at first, then
also results of earlier steps), each used exactly once; results lie in 0..99. With N digits an answer has N -
1 steps and the last result is the target.

Two texts are the same solution when they contain the same steps, up to their order and to swapping the
operands of + and *.
"""

from __future__ import annotations

import functools
import random
import zlib
from collections.abc import Iterator, Sequence
from typing import Literal

from entjax.tasks.task import Example, Task, check_index, rng_of

ALPHABET = "0123456789+-*=,>:"
LARGEST = 99
HELD_OUT = 10  # one instance in this many belongs to split="eval" and never appears in split="train"

Step = tuple[int, str, int, int]  # a op b = c


def countdown(numbers: int = 3, *, seed: int = 0, split: Literal["all", "train", "eval"] = "all") -> Task:
    """Endless solvable instances with `numbers` digits in 1..9 and the result of a solution drawn uniformly: a
    target with many solutions comes up more often.

    Which instances (digits in any order, target) belong to "train" and which to "eval" does not depend on the
    seed.
    """
    if numbers not in (2, 3, 4, 5):
        raise ValueError(f"countdown(numbers={numbers}): choose 2, 3, 4 or 5 digits.")
    if split not in ("all", "train", "eval"):
        raise ValueError(f'countdown(split={split!r}): choose "all", "train" or "eval".')
    table = functools.lru_cache(maxsize=None)(solve)
    name = f"countdown-{numbers}"

    def example(index: int) -> Example:
        check_index(index, None, name)
        rng = rng_of(name, seed, split, index)
        while True:
            digits = [rng.randint(1, 9) for _ in range(numbers)]
            reachable = table(tuple(sorted(digits)))
            targets = sorted(reachable)
            target = rng.choices(targets, [len(reachable[t]) for t in targets])[0]
            if split == "all" or is_held_out(digits, target) == (split == "eval"):
                prompt = "".join(map(str, digits)) + f">{target}:"
                return Example(prompt, {"numbers": digits, "target": target})

    def solution(example: Example, rng: random.Random) -> str | None:
        found = table(tuple(sorted(example.answer["numbers"]))).get(example.answer["target"])
        if not found:
            return None
        orders = found[rng.choice(sorted(found))]
        return ",".join(_write(step, rng) for step in rng.choice(orders))

    return Task(name, example, None, verify, alphabet=ALPHABET, solution=solution, canonical=canonical)


def verify(example: Example, text: str) -> float:
    """1 when every step is right and the last result is the target, else 0. Linear in the length of a valid
    answer.
    """
    return float(check(example.answer["numbers"], example.answer["target"], text))


def check(numbers: Sequence[int], target: int, text: str) -> bool:
    """Whether `text` reaches `target` by using each of `numbers` exactly once."""
    steps = parse(text, len(numbers) - 1)
    if steps is None:
        return False
    available = list(numbers)
    for a, op, b, c in steps:
        for operand in (a, b):
            if operand not in available:
                return False
            available.remove(operand)
        if c != _apply(a, op, b) or not 0 <= c <= LARGEST:
            return False
        available.append(c)
    return available == [target]


def canonical(example: Example, text: str) -> str | None:
    """The steps with the larger operand of + and * first, in sorted order; None when the text has not the
    form of an answer.
    """
    steps = parse(text, len(example.answer["numbers"]) - 1)
    if steps is None:
        return None
    return ",".join(sorted(_plain(_larger_first(step)) for step in steps))


def parse(text: str, count: int) -> list[Step] | None:
    """Exactly `count` steps, or None. The length is checked first, so a long text costs nothing."""
    text = text[:-1] if text[-1:] == "$" else text
    if len(text) > 9 * count:  # the longest step is `dd+dd=dd,`
        return None
    parts = text.split(",")
    steps = [_parse_step(part) for part in parts]
    if len(parts) != count or None in steps:
        return None
    return [step for step in steps if step is not None]


def solve(digits: tuple[int, ...]) -> dict[int, dict[str, list[tuple[Step, ...]]]]:
    """target -> canonical solution -> the orders in which its steps can be written."""
    found: dict[int, dict[str, set[tuple[Step, ...]]]] = {}
    for steps in _all_steps(digits, ()):
        key = ",".join(sorted(map(_plain, steps)))
        found.setdefault(steps[-1][3], {}).setdefault(key, set()).add(steps)
    return {
        target: {key: sorted(orders) for key, orders in by_key.items()} for target, by_key in found.items()
    }


def is_held_out(digits: Sequence[int], target: int) -> bool:
    """Whether the instance belongs to split="eval"; the order of the digits does not matter."""
    return zlib.crc32(f"{sorted(digits)}>{target}".encode()) % HELD_OUT == 0


def _all_steps(values: tuple[int, ...], done: tuple[Step, ...]) -> Iterator[tuple[Step, ...]]:
    if len(values) == 1:
        yield done
        return
    seen = set()  # equal digits would give the same steps twice
    for i, a in enumerate(values):
        for j, b in enumerate(values):
            if i == j or a < b or (a, b) in seen:
                continue
            seen.add((a, b))
            rest = tuple(v for n, v in enumerate(values) if n not in (i, j))
            for op in "+-*":
                c = _apply(a, op, b)
                if c <= LARGEST:
                    yield from _all_steps((*rest, c), (*done, (a, op, b, c)))


def _parse_step(text: str) -> Step | None:
    left, equals, result = text.partition("=")
    op = next((char for char in left if char in "+-*"), None)
    if op is None or not equals:
        return None
    first, _, second = left.partition(op)
    a, b, c = _number(first), _number(second), _number(result)
    return None if a is None or b is None or c is None else (a, op, b, c)


def _number(text: str) -> int | None:
    """One or two ASCII digits without a leading zero; `int` alone would also take signs, blanks and digits of
    other scripts.
    """
    if (
        not 1 <= len(text) <= 2
        or any(char not in "0123456789" for char in text)
        or (len(text) == 2 and text[0] == "0")
    ):
        return None
    return int(text)


def _apply(a: int, op: str, b: int) -> int:
    return a + b if op == "+" else a - b if op == "-" else a * b


def _larger_first(step: Step) -> Step:
    a, op, b, c = step
    return (b, op, a, c) if op != "-" and a < b else step


def _plain(step: Step) -> str:
    a, op, b, c = step
    return f"{a}{op}{b}={c}"


def _write(step: Step, rng: random.Random) -> str:
    a, op, b, c = step
    return _plain((b, op, a, c) if op != "-" and rng.random() < 0.5 else step)
