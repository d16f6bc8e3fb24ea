"""Rewards for the form of a text."""

import time

import pytest

from entjax.rewards import text
from entjax.tasks.scoring import check_reward

GOOD = " <think> 1+1 is 2 </think>\n<answer>2</answer> "


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (GOOD, 1.0),
        ("<think></think><answer></answer>", 1.0),
        ("", 0.0),
        ("x" + GOOD, 0.0),
        (GOOD + "x", 0.0),
        (GOOD + "<answer>", 0.0),
        ("<think>a</think> but <answer>2</answer>", 0.0),
        ("<answer>2</answer><think>a</think>", 0.0),
        ("<think><answer>a</think></answer>", 0.0),
        ("<think>a<answer>2</answer>", 0.0),
    ],
)
def test_tag_format(answer, expected):
    assert text.tag_format()(None, answer) == expected


def test_tag_count_is_partial_credit():
    count = text.tag_count()
    assert count(None, GOOD) == 1.0
    assert count(None, "<think>a</think>") == 0.5
    assert count(None, "<think><think></think>") == 0.25
    assert count(None, "") == 0.0


def test_distinct_ngrams_see_loops():
    distinct = text.distinct_ngrams(2)
    assert distinct(None, "a b c d") == 1.0
    assert distinct(None, "a b a b a") == 0.5  # ab ba ab ba
    assert distinct(None, "a") == 1.0


def test_weighted_mean_stays_a_reward():
    reward = text.weighted((3.0, lambda example, answer: float(example == answer)), (1.0, text.tag_format()))
    assert reward(GOOD, GOOD) == 1.0 and reward("2", "2") == 0.75 and reward("2", GOOD) == 0.25
    assert check_reward(reward("", GOOD))[0].outcome == "verified"
    with pytest.raises(ValueError, match="positive sum"):
        text.weighted()


@pytest.mark.parametrize(
    "hostile", ["<think>" * 200_000, "<" * 1_000_000, "a " * 500_000, "</think><think>" * 90_000]
)
def test_hostile_texts_cost_little(hostile):
    rewards = (text.tag_format(), text.tag_count(), text.distinct_ngrams())
    start = time.process_time()
    assert all(0.0 <= reward(None, hostile) <= 1.0 for reward in rewards)
    assert time.process_time() - start < 1.0


def test_names_are_checked():
    with pytest.raises(ValueError, match="sequence of names"):
        text.tag_format("think")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("", False),
        ("the capital", True),  # contained
        ("What is the lovely capital of France", True),  # six of seven words in the question's order
        ("What is France of capital the", False),  # their order counts: 3 of 6
        ("It is Paris", False),
    ],
)
def test_copies_of_the_question(answer, expected):
    assert text.copies("What is the capital of France ?", answer) is expected


@pytest.mark.parametrize(
    ("answer", "expected"), [("2", False), ("12", True), ("12 apples.", True), ("?", False)]
)
def test_copies_compare_words(answer, expected):
    assert text.copies("Tom has 12 apples", answer) is expected
