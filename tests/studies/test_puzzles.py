"""The study's tasks: worked answers that the verifier takes, prompts and answers that fit, and what is held out."""

from __future__ import annotations

import collections
import itertools
import random

import pytest

from entjax import tasks
from entjax.studies import grid, puzzles

pytest.importorskip("reasoning_gym")


@pytest.mark.parametrize("setting", grid.settings().values(), ids=lambda s: s.name)
def test_worked_answers_are_right_and_fit_the_policy(setting):
    rng = random.Random(0)
    for task in (setting.train(), setting.held_out()):
        examples = [task.example(i) for i in range(60)]
        assert task.solution is not None and task.alphabet is not None
        answers = [task.solution(e, rng) for e in examples]
        assert set("".join([e.prompt for e in examples] + answers)) <= set(task.alphabet)
        assert len(task.alphabet) + 2 == setting.vocab  # with padding and the end
        longest = max(map(len, answers))
        assert longest + 1 <= setting.max_new_tokens
        assert max(len(e.prompt) for e in examples) + setting.max_new_tokens <= setting.context
        with tasks.scorer(task) as scorer:
            rewards, _ = scorer.score(examples, answers)
            assert rewards.tolist() == [1.0] * 60
            wrong, _ = scorer.score(examples, [a[::-1] + a[:1] for a in answers])
            assert wrong.mean() < 0.5


def test_every_shortest_way_to_open_the_lock_is_as_likely():
    task = puzzles.quantum_lock(held_out=False)
    assert task.solution is not None
    example = next(
        e for e in map(task.example, itertools.count()) if len(e.answer.split()) == 9
    )  # five presses, four arrows
    with tasks.scorer(task) as scorer:
        tried = ["".join(keys) for keys in itertools.product("ABC", repeat=5)]
        rewards, _ = scorer.score([example] * len(tried), tried)
    right = {keys for keys, reward in zip(tried, rewards, strict=True) if reward == 1}
    rng = random.Random(0)
    drawn = collections.Counter(task.solution(example, rng) for _ in range(3000))
    assert (
        set(drawn) <= right
    )  # a press that does nothing counts for the library: such ways are right and never drawn
    expected = 3000 / len(drawn)
    assert len(drawn) > 1 and sum((n - expected) ** 2 / expected for n in drawn.values()) < 5 * len(drawn)


def test_no_lock_that_is_held_out_is_trained_on():
    of = lambda held_out: [
        "".join(sorted(puzzles.quantum_lock(held_out).example(i).prompt)) for i in range(1500)
    ]
    trained, held = set(of(False)), set(of(True))
    assert not trained & held and len(held) > 50
