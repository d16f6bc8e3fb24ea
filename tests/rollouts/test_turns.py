"""Conversations: what the environment says is in the text and outside the loss, turns are numbered, caches are continued."""

import itertools

import numpy as np
import pytest

import entjax as ej
from entjax import tasks
from entjax.rollouts import agentic, arpo, multi_turn, silent, tool_light
from entjax.tasks.calculator import compute
from tests.rollouts import world

TASK = tasks.calculator()
RUN = {
    "task": TASK,
    "model": ej.models.tiny(vocab=23, width=16, layers=1, heads=2, context=96),
    "max_new_tokens": 40,
}
# An environment that is called often by a random model: every digit 7, 8 or 9 is a call, answered by its position in the talk.
TALK = tasks.Environment(
    "talk", lambda example: 0, lambda n, text: tasks.Turn(n + 1, f"({n})={len(text)};"), ("7", "8", "9"), 3
)


def collect(strategy, **how):
    return world.collect(strategy, **RUN, **how)


def segments(c, row):
    """[(mask, text), ...] of a completion."""
    decode = world.parts(**RUN).tokenizer.decode
    at = range(int(c.prompt_length[row]), int(c.length[row]))
    return [
        (bool(on), decode([int(c.tokens[row, i]) for i in part]))
        for on, part in ((on, list(part)) for on, part in itertools.groupby(at, key=lambda i: c.mask[row, i]))
    ]


@pytest.mark.parametrize(
    "strategy",
    [
        multi_turn(TALK),
        arpo(TALK, initial=3, probability=0.7),
        agentic(TALK),
        tool_light(TALK, counts=(1, 3)),
    ],
    ids=lambda s: s.name,
)
def test_replies_are_in_the_text_and_outside_the_loss(strategy):
    harvest = collect(strategy)
    world.check(harvest, run=world.parts(**RUN))  # log-probs behind replies are those of the whole text
    c, turn, calls = harvest.completions, harvest.extra["turn"], harvest.extra["tool_calls"]
    assert calls.sum() > 10 and len(np.unique(harvest.extra["trajectory"])) == len(calls)
    for row in range(len(c.length)):
        parts = segments(c, row)
        said = [text for on, text in parts if on]
        replies = [text for on, text in parts if not on]
        for n, (mine, reply) in enumerate(zip(said, replies)):
            assert mine[-1] in "789" and not set(mine[:-1]) & set("789")
            assert reply == f"({n})={len(mine)};"
        answered = (
            said[-1] != "" and said[-1][-1] in "789"
        )  # the last reply found no room, or was one too many
        assert calls[row] == len(replies) + answered
        assert calls[row] <= TALK.turns
        assert c.length[row] - c.prompt_length[row] <= 40
        numbers = turn[row, c.mask[row]]
        assert (np.diff(numbers) >= 0).all() and set(numbers) == set(range(len(said)))
        assert (turn[row, ~c.mask[row]] == -1).all()
        if answered and calls[row] < TALK.turns:
            assert not c.finished[row]


def test_nothing_is_computed_twice():
    harvest = collect(multi_turn(TALK))
    c = harvest.completions
    held = (c.length - c.prompt_length).sum()
    assert harvest.metrics["sampling/tokens_computed"] == held
    assert harvest.metrics["turns/calls"] == pytest.approx(harvest.extra["tool_calls"].mean())


def test_conversations_do_not_depend_on_their_company():
    """Prompts one at a time, and in blocks of the sampler, give what they give together."""
    tools, examples = world.tools(**RUN), world.examples(task=TASK)
    together = multi_turn(TALK)(tools, examples, 0, {})
    sampler = tools.stepper.sampler
    small = sampler._replace(shapes=sampler.shapes._replace(at_once=world.SAMPLES))
    apart = multi_turn(TALK)(tools._replace(stepper=tools.stepper._replace(sampler=small)), examples, 0, {})
    assert apart.texts == together.texts
    for name in ("turn", "tool_calls"):
        np.testing.assert_array_equal(apart.extra[name], together.extra[name])
    np.testing.assert_array_equal(apart.completions.group, together.completions.group)
    assert len(np.unique(apart.extra["trajectory"])) == len(apart.texts)


def test_stop_strings_of_the_run_end_a_trajectory():
    harvest = collect(multi_turn(TALK), stop=("5",))
    stopped = [text for text in harvest.texts if "5" in text.split(";")[-1]]
    assert stopped and all(text.endswith("5") for text in stopped)


def test_silent_steps_are_plain_samples_with_turns():
    harvest = collect(multi_turn(silent("7")))
    c = harvest.completions
    for row in range(len(c.length)):
        pieces = harvest.texts[row].split("7")
        assert harvest.extra["tool_calls"][row] == len(pieces) - 1
        full = pieces[-1] == "" and c.length[row] - c.prompt_length[row] == 40
        assert harvest.extra["turn"][row].max() == len(pieces) - 1 - full


def test_the_calculator_answers_in_a_rollout():
    harvest = collect(multi_turn(tasks.calculator_tool(start="1", end="]")))
    seen = 0
    for row in range(len(harvest.texts)):
        parts = segments(harvest.completions, row)
        for (_, mine), (on, reply) in itertools.pairwise(parts):
            if not on:
                seen += 1
                inner = mine.removesuffix("]").rpartition("1")[2] if "1" in mine else None
                value = None if inner is None else compute(inner)
                assert reply == f"{'?' if value is None else value};"
    assert seen > 5


def test_evaluation_plays_in_the_environment():
    from entjax.evaluate import evaluate

    metrics = evaluate(world.tools(**RUN), world.examples(task=TASK), (1,), None, multi_turn(TALK).sample)
    assert metrics["eval/call_rate"] > 0.5 and metrics["eval/length"] < 40
