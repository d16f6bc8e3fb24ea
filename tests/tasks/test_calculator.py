"""The calculator: its parser against trees whose value is known, hostile text, and the task that is played with it."""

import random
import time
from fractions import Fraction

import pytest

from entjax import tasks
from entjax.tasks.calculator import ALPHABET, LARGEST, compute


def tree(rng, depth):
    """(text, value) of a random expression, the value computed while it is drawn."""
    if depth == 0 or rng.random() < 0.2:
        n = rng.randrange(100)
        return str(n), Fraction(n)
    (a, x), (b, y) = tree(rng, depth - 1), tree(rng, depth - 1)
    op = rng.choice("+-*/")
    if op == "/" and y == 0:
        op = "+"
    value = {"+": lambda: x + y, "-": lambda: x - y, "*": lambda: x * y, "/": lambda: x / y}[op]()
    return f"({a}{op}{b})", value


def test_values_of_random_trees():
    rng, seen = random.Random(0), 0
    for _ in range(400):
        text, value = tree(rng, rng.randint(0, 4))
        found = compute(text)
        if len(text) <= 100 and max(abs(value.numerator), value.denominator) < 10**6:
            seen += found == value
            assert found in (value, None)  # None where a value on the way was too large
    assert seen > 300


@pytest.mark.parametrize(
    ("text", "value"),
    [("1+2*3", 7), ("2*3+1", 7), ("8-3-2", 3), ("8/4/2", 1), ("-(2-5)*-2", -6), ("0.5*4", 2), (" 1 + 1 ", 2),
     ("1/3", Fraction(1, 3))],
)  # fmt: skip
def test_precedence(text, value):
    assert compute(text) == value


@pytest.mark.parametrize(
    "text",
    ["", "+", "1+", "*2", "2**3", "1 2", "(1", "1)", "()", "1/0", "1/(2-2)", "a", "__import__('os')", "9" * 21, "1e9", "１+１",
     "(" * 9 + "1" + ")" * 9, "-" * 40 + "1", "1+" * 60 + "1", str(LARGEST) + "*2", "[1]", "1,2", "0x10", "1_0", "2^5"],
)  # fmt: skip
def test_what_is_no_expression_has_no_value(text):
    started = time.perf_counter()
    assert compute(text) is None
    assert time.perf_counter() - started < 0.05


def test_the_tool_answers_the_last_call():
    tool = tasks.calculator_tool()
    world = tool.reset(tasks.Example("1+1?", "2"))
    assert tool.step(world, "[3*4]") == (1, "12;", False)
    assert tool.step(world, "=[9[1/3]").reply == "1/3;"
    assert (
        tool.step(world, "3*4]").reply
        == tool.step(world, "[3*]").reply
        == tool.step(world, "[1/0]").reply
        == "?;"
    )
    tags = tasks.calculator_tool("<calc>", "</calc>", "<result>", "</result>")
    assert tags.step(0, "so <calc>2+2</calc>").reply == "<result>4</result>"
    assert tags.stops == ("</calc>",)
    with pytest.raises(ValueError, match="marks around a call"):
        tasks.calculator_tool(start="")
    with pytest.raises(ValueError, match="end a step"):
        tasks.silent()


def test_examples_and_solutions():
    task = tasks.calculator(operands=3, digits=2, tool_share=0.5)
    rng, calls = random.Random(1), 0
    for i in range(50):
        example = task.example(i)
        expression = example.prompt.removesuffix("?")
        assert set(example.prompt) <= set(ALPHABET) and compute(expression) == int(example.answer)
        text = task.solution(example, rng)
        assert task.verify(example, text) == task.verify(example, text + "$") == 1.0
        assert task.canonical(example, text) == example.answer
        if "[" in text:
            calls += 1
            call, _, after = text.partition("]")
            assert after.startswith(tasks.calculator_tool().step(0, call + "]").reply)
        wrong = str(int(example.answer) + 1)
        assert (
            task.verify(example, f"={wrong}")
            == task.verify(example, example.answer)
            == task.verify(example, text + "1")
            == 0.0
        )
    assert 10 < calls < 40
    assert task.example(3) == tasks.calculator(operands=3, digits=2).example(3)
    with pytest.raises(ValueError, match="operands >= 2"):
        tasks.calculator(operands=1)
