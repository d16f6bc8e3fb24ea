"""Arithmetic on integers of several digits: `17+25=` for character-level models, a sentence for real ones."""

from __future__ import annotations

import random

from entjax.tasks.numbers import extract_answer, parse_number
from entjax.tasks.task import Example, Task, check_index, rng_of

ALPHABET = "0123456789+-*="


def arithmetic(digits: int = 2, operators: str = "+-*", *, seed: int = 0) -> Task:
    """Endless `a+b=` with operands of up to `digits` digits; the answer is the bare result, which may be
    negative.
    """
    name, draw = _problems("arithmetic", digits, operators, seed)

    def example(index: int) -> Example:
        a, op, b = draw(index)
        return Example(f"{a}{op}{b}=", str(_result(a, op, b)))

    return Task(name, example, None, verify, alphabet=ALPHABET, solution=_solution, canonical=canonical)


def arithmetic_chat(digits: int = 2, operators: str = "+-*", *, seed: int = 0) -> Task:
    """The same problems in words, for models with a chat template; the last number (or boxed answer) of the
    reply counts.
    """
    name, draw = _problems("arithmetic-chat", digits, operators, seed)

    def example(index: int) -> Example:
        a, op, b = draw(index)
        return Example(f"What is {a} {op} {b}? Answer with just the number.", str(_result(a, op, b)))

    return Task(name, example, None, verify_chat, solution=_solution, canonical=canonical_chat)


def verify(example: Example, text: str) -> float:
    """1 when the text is exactly the result (an end mark `$` may follow): no blanks, no leading zeros,
    nothing else.
    """
    return float(len(text) <= len(example.answer) + 1 and text.removesuffix("$") == example.answer)


def verify_chat(example: Example, text: str) -> float:
    """1 when the final answer of the reply equals the result as a number."""
    value = parse_number(extract_answer(text) or "")
    return float(value is not None and value == int(example.answer))


def canonical(example: Example, text: str) -> str | None:
    """The text itself when it is a number of plausible length."""
    text = text.removesuffix("$")
    return text if len(text) <= len(example.answer) + 3 and parse_number(text) is not None else None


def canonical_chat(example: Example, text: str) -> str | None:
    """The final answer as a reduced fraction."""
    value = parse_number(extract_answer(text) or "")
    return None if value is None else str(value)


def _problems(kind: str, digits: int, operators: str, seed: int):
    if not 1 <= digits <= 30:
        raise ValueError(f"arithmetic(digits={digits}): choose 1 to 30 digits.")
    if not operators or set(operators) - set("+-*"):
        raise ValueError(f'arithmetic(operators={operators!r}): choose one or more of the characters "+-*".')
    name = f"{kind}-{digits}"

    def draw(index: int) -> tuple[int, str, int]:
        check_index(index, None, name)
        rng = rng_of(name, operators, seed, index)
        # the number of digits is drawn first: uniform operands would hardly ever be short
        a, b = (rng.randrange(10 ** rng.randint(1, digits)) for _ in range(2))
        return a, rng.choice(operators), b

    return name, draw


def _result(a: int, op: str, b: int) -> int:
    return a + b if op == "+" else a - b if op == "-" else a * b


def _solution(example: Example, rng: random.Random) -> str:
    del rng  # there is one answer only
    return example.answer
