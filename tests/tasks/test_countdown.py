"""Countdown against independent brute force: what can be reached, what is right, how many solutions there
are.
"""

import itertools
import random
import re
from collections import Counter

import numpy as np
import pytest

from entjax.tasks import char_tokenizer, countdown
from entjax.tasks.countdown import check, is_held_out, solve
from entjax.tasks.task import Example

OPERATORS = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b}
STEP = re.compile(r"(0|[1-9][0-9]?)([-+*])(0|[1-9][0-9]?)=(0|[1-9][0-9]?)", re.ASCII)


def reference_check(numbers, target, text):
    """The rules once more, by regular expression and multisets."""
    available = Counter(numbers)
    matches = [STEP.fullmatch(part) for part in text.split(",")]
    if len(matches) != len(numbers) - 1 or None in matches:
        return False
    for match in matches:
        a, b, c = int(match[1]), int(match[3]), int(match[4])
        used = Counter([a, b])
        if used - available or OPERATORS[match[2]](a, b) != c:
            return False
        available = available - used + Counter([c])
    return available == Counter([target])


def reachable(numbers):
    """Targets of all expression trees over all orders of the numbers, every node in 0..99."""
    if len(numbers) == 1:
        return {numbers[0]}
    found = set()
    for size in range(1, len(numbers)):
        for chosen in itertools.combinations(range(len(numbers)), size):
            left = tuple(numbers[i] for i in chosen)
            right = tuple(n for i, n in enumerate(numbers) if i not in chosen)
            for a, b in itertools.product(reachable(left), reachable(right)):
                found |= {c for c in (a + b, a - b, a * b) if 0 <= c <= 99}
    return found


@pytest.mark.parametrize("numbers", [(5, 7, 2), (1, 1, 1), (9, 9, 9), (3, 3, 8), (2, 4, 6, 8), (5, 5, 1, 9)])
def test_solver_reaches_exactly_what_brute_force_reaches(numbers):
    table = solve(tuple(sorted(numbers)))
    assert set(table) == reachable(numbers)
    for target, solutions in table.items():
        for orders in solutions.values():
            for steps in orders:
                assert reference_check(numbers, target, ",".join(f"{a}{op}{b}={c}" for a, op, b, c in steps))


def test_checker_equals_an_independent_one_on_all_short_texts_over_a_few_numbers():
    numbers, target = (2, 3, 5), 21
    operands = [0, 2, 3, 5, 6, 7, 10, 21]
    steps = [f"{a}{op}{b}={c}" for a, b, c in itertools.product(operands, repeat=3) for op in "+-*"]
    right = [
        step
        for step in steps
        if reference_check(tuple(map(int, re.split(r"[-+*=]", step)[:2])), *_result(step))
    ]
    texts = [f"{first},{second}" for first in steps[::7] + right for second in right]
    verdicts = [check(numbers, target, text) for text in texts]
    assert verdicts == [reference_check(numbers, target, text) for text in texts]
    accepted = {text for text, verdict in zip(texts, verdicts, strict=True) if verdict}
    assert accepted == {f"{a},{b}" for a in ("2+5=7", "5+2=7") for b in ("3*7=21", "7*3=21")}


def _result(step):
    value = int(step.split("=")[1])
    return value, step


def test_checker_equals_an_independent_one_on_mutated_solutions():
    rng, task = random.Random(0), countdown(4)
    outcomes = Counter()
    for index in range(60):
        example = task.example(index)
        numbers, target = example.answer["numbers"], example.answer["target"]
        text = task.solution(example, rng)
        for _ in range(40):
            chars = list(text)
            for _ in range(rng.randint(0, 2)):
                chars[rng.randrange(len(chars))] = rng.choice("0123456789+-*=,>")
            mutated = "".join(chars)
            assert check(numbers, target, mutated) == reference_check(numbers, target, mutated), mutated
            outcomes[check(numbers, target, mutated)] += 1
    assert outcomes[True] > 500 and outcomes[False] > 500


@pytest.mark.parametrize(
    "text",
    [
        "",
        "$",
        "5*2=10",
        "5*2=10,10+7=17,",
        "5*2=10,10+7=18",
        "5*2=10,10+07=17",
        "5*2=10,10+7=17$$",
        " 5*2=10,10+7=17",
        "5*2=10,10+٧=17",
        "5*2=10,7+9=16",
        "5*5=25,25-8=17",
        "5*2=10;10+7=17",
        "2-5=-3,7+10=17",
        "5×2=10,10+7=17",
    ],
)
def test_near_misses_are_wrong(text):
    assert not check([5, 7, 2], 17, text)


def test_end_mark_is_optional():
    assert check([5, 7, 2], 17, "5*2=10,10+7=17") and check([5, 7, 2], 17, "5*2=10,10+7=17$")


def test_canonical_form_counts_solutions_as_brute_force_does():
    """Every writing of a solution has the same form, different solutions have different ones."""
    numbers, target, task = (2, 3, 4), 14, countdown()
    example = Example("", {"numbers": list(numbers), "target": target})
    writings = set()
    for a, b, c in set(itertools.permutations(numbers)):
        for f, g in itertools.product("+-*", repeat=2):
            first = OPERATORS[f](a, b)
            for left, right in ((first, c), (c, first)):
                text = f"{a}{f}{b}={first},{left}{g}{right}={OPERATORS[g](left, right)}"
                if reference_check(numbers, target, text):
                    writings.add(text)
    forms = {"12+2=14,4*3=12", "4+3=7,7*2=14"}  # 2 + 3 * 4 and 2 * (3 + 4)
    assert {task.canonical(example, text) for text in writings} == forms == set(solve(numbers)[target])
    assert len(writings) == 8
    assert task.canonical(example, "nonsense") is None


def test_solutions_are_right_and_uniform_over_the_distinct_ones():
    task, rng = countdown(), random.Random(1)
    example = Example("234>14:", {"numbers": [2, 3, 4], "target": 14})
    texts = [task.solution(example, rng) for _ in range(800)]
    assert all(task.verify(example, text) == 1.0 for text in texts)
    counts = Counter(task.canonical(example, text) for text in texts)
    assert len(counts) == 2 and abs(counts["4+3=7,7*2=14"] - 400) < 5 * np.sqrt(200)
    assert len(set(texts)) == 8  # two solutions, each with two steps whose operands can be swapped
    assert task.solution(Example("", {"numbers": [1, 1, 1], "target": 99}), rng) is None


@pytest.mark.parametrize("numbers,longest", [(3, 15), (4, 24)])
def test_examples_are_solvable_short_and_in_the_alphabet(numbers, longest):
    task, rng = countdown(numbers), random.Random(0)
    tokenizer = char_tokenizer(task.alphabet)
    assert tokenizer.vocab_size == 19
    prompts = []
    for index in range(100):
        example = task.example(index)
        text = task.solution(example, rng) + "$"
        assert task.verify(example, text) == 1.0 and len(text) <= longest
        assert (
            example.prompt == "".join(map(str, example.answer["numbers"])) + f">{example.answer['target']}:"
        )
        ids = tokenizer.encode(example.prompt + text)
        assert ids[-1] == tokenizer.eos_id and tokenizer.decode(ids) == example.prompt + text[:-1]
        prompts.append(example.prompt)
    assert len(set(prompts)) > 95
    assert prompts == [countdown(numbers).example(index).prompt for index in range(100)]
    assert prompts != [countdown(numbers, seed=1).example(index).prompt for index in range(100)]


def test_held_out_instances_never_appear_in_training():
    train, held = countdown(split="train"), countdown(split="eval", seed=3)

    def instances(task):
        answers = [task.example(i).answer for i in range(300)]
        return {(tuple(sorted(a["numbers"])), a["target"]) for a in answers}

    assert not instances(train) & instances(held)
    assert all(is_held_out(*instance) for instance in instances(held))


@pytest.mark.parametrize("arguments", [{"numbers": 1}, {"numbers": 9}, {"split": "test"}])
def test_bad_arguments_say_what_to_choose(arguments):
    with pytest.raises(ValueError, match="choose"):
        countdown(**arguments)
