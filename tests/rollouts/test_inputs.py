"""Inputs that are found in texts, with a tokenizer that cuts characters into bytes."""

import numpy as np

from entjax.rollouts import inputs
from entjax.rollouts.harvest import Harvest
from entjax.sampler import Completions
from entjax.tasks import Report
from tests.rollouts import world


def of_text(text, prompt=3):
    """A harvest of one row whose tokens are the bytes of a text."""
    data = np.frombuffer(text.encode(), np.uint8).astype(np.int32)
    tokens = np.concatenate([np.zeros(prompt, np.int32), data, np.zeros(2, np.int32)])[None]
    length = np.array([prompt + len(data)])
    mask = (np.arange(tokens.shape[1]) >= prompt)[None] & (np.arange(tokens.shape[1]) < length)[None]
    zeros = np.zeros(tokens.shape, np.float32)
    c = Completions(
        tokens,
        mask,
        zeros,
        zeros,
        zeros,
        zeros,
        np.array([prompt]),
        length,
        np.ones(1, bool),
        np.zeros(1, np.int32),
    )
    tools = world.tools()._replace(decode=lambda ids: bytes(ids).decode(errors="replace"))
    return Harvest(c, world.examples(1), [text], np.zeros(1, np.float32), Report()), tools


def marked(text):
    """The part of a text whose tokens are planning tokens."""
    harvest, tools = of_text(text)
    found = inputs.plans(harvest, tools)[0]
    return bytes(harvest.completions.tokens[0, found].tolist()).decode(errors="replace")


def test_plans_are_found_behind_characters_of_several_tokens():
    assert marked("So x = 2. Wait, no") == "Wait"
    assert marked("So x ∈ ℤ, ⌊x⌋ ≤ 2. Wait, that is wrong; therefore 3") == "Waittherefore"
    assert marked("nothing ∈ here") == ""


def test_steps_end_with_a_separator():
    harvest, tools = of_text("ab,c.d")
    turn = inputs.turns(harvest, tools)[0]
    assert turn.tolist() == [-1] * 3 + [0, 0, 0, 1, 1, 2] + [-1] * 2
