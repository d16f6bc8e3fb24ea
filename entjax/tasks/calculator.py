"""A calculator as an environment, and a character-level task that is hard without it: `37*48+5?` -> `[37*48+5]1781;=1781`.

The tool reads numbers, + - * / and brackets with a bounded parser; nothing is ever evaluated as code. What it cannot read, what
is too large and a division by zero are answered with `?`.
"""

from __future__ import annotations

import random
import re
from fractions import Fraction

from entjax.tasks.environment import Environment, Turn
from entjax.tasks.numbers import parse_number
from entjax.tasks.task import Example, Task, check_index, rng_of

ALPHABET = "0123456789+-*/()[];=?"
LONGEST = 100  # characters of an expression
DEEPEST = 8  # brackets and signs inside one another
LARGEST = 10**20  # of any numerator or denominator on the way
UNKNOWN = "?"

_TOKEN = re.compile(r"[0-9]{1,20}(?:\.[0-9]{1,20})?|[-+*/()]", re.ASCII)


def compute(text: str) -> Fraction | None:
    """The exact value of an expression, or None."""
    if len(text) > LONGEST:
        return None
    tokens = _TOKEN.findall(text)
    if "".join(tokens) != text.replace(" ", ""):
        return None
    try:
        value, rest = _sum(tokens, 0, 0)
    except (_Unreadable, ZeroDivisionError):
        return None
    return value if rest == len(tokens) else None


def calculator_tool(
    start: str = "[", end: str = "]", before: str = "", after: str = ";", turns: int = 4
) -> Environment:
    """Answers `start expression end` with `before value after`, at most `turns` times; the marks may be tags of a real model."""
    if not start or not end:
        raise ValueError(f"calculator_tool() needs marks around a call, got start={start!r} and end={end!r}.")

    def step(world: int, text: str) -> Turn:
        call, found, _ = text.partition(end)
        _, opened, expression = call.rpartition(start)
        value = compute(expression) if found and opened else None
        return Turn(world + 1, f"{before}{UNKNOWN if value is None else value}{after}")

    return Environment("calculator", lambda example: 0, step, (end,), turns)


def calculator(operands: int = 2, digits: int = 2, *, tool_share: float = 0.5, seed: int = 0) -> Task:
    """Endless `a*b+c?` with up to `digits` digits; the answer stands behind the last `=`.

    Worked solutions call the tool with probability `tool_share` and write the result at once otherwise.
    """
    if operands < 2 or not 1 <= digits <= 6:
        raise ValueError(f"calculator needs operands >= 2 and 1 to 6 digits, got {operands} and {digits}.")
    if not 0 <= tool_share <= 1:
        raise ValueError(f"tool_share lies between 0 and 1, got {tool_share}.")
    name = f"calculator-{operands}x{digits}"

    def example(index: int) -> Example:
        check_index(index, None, name)
        rng = rng_of(name, seed, index)
        numbers = [
            str(rng.randrange(10 ** (digits - 1) if digits > 1 else 0, 10**digits)) for _ in range(operands)
        ]
        expression = numbers[0] + "".join(rng.choice("+-*") + number for number in numbers[1:])
        return Example(f"{expression}?", str(compute(expression)))

    def solution(example: Example, rng: random.Random) -> str:
        call = f"[{example.prompt[:-1]}]{example.answer};" if rng.random() < tool_share else ""
        return f"{call}={example.answer}"

    return Task(name, example, None, verify, alphabet=ALPHABET, solution=solution, canonical=canonical)


def verify(example: Example, text: str) -> float:
    """1 when the text ends with `=` and the result, and nothing else behind it (an end mark `$` may follow)."""
    return float(canonical(example, text) == example.answer)


def canonical(example: Example, text: str) -> str | None:
    """What stands behind the last `=`, when it is a number."""
    _, found, answer = text.removesuffix("$")[-LONGEST:].rpartition("=")
    return answer if found and parse_number(answer) is not None else None


class _Unreadable(Exception):
    """The text is no expression, or one that is too deep or too large."""


def _sum(tokens: list[str], at: int, depth: int) -> tuple[Fraction, int]:
    value, at = _product(tokens, at, depth)
    while at < len(tokens) and tokens[at] in "+-":
        other, end = _product(tokens, at + 1, depth)
        value, at = _bounded(value + other if tokens[at] == "+" else value - other), end
    return value, at


def _product(tokens: list[str], at: int, depth: int) -> tuple[Fraction, int]:
    value, at = _factor(tokens, at, depth)
    while at < len(tokens) and tokens[at] in "*/":
        other, end = _factor(tokens, at + 1, depth)
        value, at = _bounded(value * other if tokens[at] == "*" else value / other), end
    return value, at


def _factor(tokens: list[str], at: int, depth: int) -> tuple[Fraction, int]:
    if at >= len(tokens) or depth > DEEPEST:
        raise _Unreadable
    if tokens[at] == "-":
        value, end = _factor(tokens, at + 1, depth + 1)
        return -value, end
    if tokens[at] == "(":
        value, end = _sum(tokens, at + 1, depth + 1)
        if end >= len(tokens) or tokens[end] != ")":
            raise _Unreadable
        return value, end + 1
    if tokens[at] in "+*/)":
        raise _Unreadable
    return _bounded(Fraction(tokens[at])), at + 1


def _bounded(value: Fraction) -> Fraction:
    if abs(value.numerator) > LARGEST or value.denominator > LARGEST:
        raise _Unreadable
    return value
