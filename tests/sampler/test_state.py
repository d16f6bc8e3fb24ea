"""The lower level: states are values that can be forked, rewound and extended without computing a prefix again."""

import jax
import numpy as np
import pytest

from entjax import decoding
from entjax.sampler import Sampling, sequence_keys
from tests.sampler.conftest import HOW, PROMPTS, VOCAB

ROWS = np.repeat(np.arange(4), 8)  # eight rows of each prompt, as in the other tests
NAMES = ("tokens", "mask", "logp", "entropy", "sampled_logp", "sampled_entropy", "length", "finished")


def keys(seed=7):
    return sequence_keys(
        jax.random.key(seed), np.int32(0), ROWS.astype(np.int32), np.tile(np.arange(8, dtype=np.int32), 4)
    )


def begin(world, how=HOW, seed=7):
    return world.sampler.begin(world.sampler.prefill(world.params, PROMPTS), how, ROWS, keys(seed))


def assert_equal(a, b, rows=slice(None)):
    for name in NAMES:
        x, y = getattr(a, name), getattr(b, name)[rows]
        if x.dtype.kind == "f":
            np.testing.assert_allclose(x, y, rtol=0, atol=1e-5, err_msg=name)
        else:
            np.testing.assert_array_equal(x, y, err_msg=name)


def test_the_pieces_make_generate(world):
    sampler = world.sampler
    want = sampler.generate(world.params, PROMPTS, HOW, key=jax.random.key(7), samples=8)
    state = begin(world)
    whole = sampler.finish(sampler.decode(world.params, state, 12), group=ROWS)
    assert_equal(whole, want)
    np.testing.assert_array_equal(whole.group, want.group)
    for steps in (1, 4, 0, 100):
        state = sampler.decode(world.params, state, steps)
    assert_equal(sampler.finish(state), want)
    assert_equal(
        sampler.finish(sampler.decode(world.params, state, 3)), want
    )  # rows that are done write nothing


def test_a_state_is_a_value(world):
    state = begin(world)
    first = world.sampler.finish(world.sampler.decode(world.params, state, 12))
    assert world.sampler.finish(state).mask.sum() == 0
    assert_equal(world.sampler.finish(world.sampler.decode(world.params, state, 12)), first)


def test_a_fork_with_the_same_key_reproduces_its_parent(world):
    sampler = world.sampler
    half = sampler.decode(world.params, begin(world), 5)
    parent = sampler.finish(sampler.decode(world.params, half, 7))
    rows = np.roll(np.repeat(np.arange(0, 32, 2), 2), 3)
    child = sampler.finish(sampler.decode(world.params, sampler.fork(half, rows), 7))
    assert_equal(child, parent, rows)
    other = sampler.finish(sampler.decode(world.params, sampler.fork(half, rows, keys(8)), 7))
    shared = np.arange(24) < sampler.finish(half).length[rows][:, None]
    np.testing.assert_array_equal(np.where(shared, other.tokens, 0), np.where(shared, child.tokens, 0))
    differ, running = (other.tokens != child.tokens).any(-1), ~sampler.finish(half).finished[rows]
    assert not differ[~running].any() and differ[running].mean() > 0.8


def test_rewind_goes_back_to_any_prefix(world):
    sampler = world.sampler
    end = sampler.decode(world.params, begin(world), 12)
    want = sampler.finish(end)
    back = want.prompt_length + np.arange(32) % 6
    cut = sampler.rewind(end, back)
    short = sampler.finish(cut)
    np.testing.assert_array_equal(short.length, np.minimum(back, want.length))
    inside = np.arange(24) < short.length[:, None]
    np.testing.assert_array_equal(short.tokens, np.where(inside, want.tokens, 0))
    np.testing.assert_array_equal(short.mask, want.mask & inside)
    assert_equal(sampler.finish(sampler.decode(world.params, cut, 12)), want)


def test_peek_is_the_policy_of_the_next_token(world):
    state = world.sampler.decode(world.params, begin(world), 4)
    out = world.sampler.finish(state)
    peeked = np.asarray(world.sampler.peek(world.params, state))
    assert peeked.shape == (32, VOCAB)
    for row in range(0, 32, 5):
        tokens = [*out.tokens[row, : out.length[row]], 0]
        np.testing.assert_allclose(peeked[row], world.log_probs(tokens)[-1], rtol=0, atol=1e-5)


def test_extend_continues_as_if_the_text_had_been_the_prompt(world):
    sampler = world.sampler
    state = sampler.decode(world.params, begin(world), 5)
    before = sampler.finish(state)
    given = [[20 + row % 5] * (row % 4) for row in range(32)]
    longer = sampler.extend(world.params, state, given, new=4)
    peeked = np.asarray(sampler.peek(world.params, longer))
    out = sampler.finish(sampler.decode(world.params, longer, 100))
    for row in range(32):
        n, k = before.length[row], len(given[row])
        assert out.tokens[row, n : n + k].tolist() == given[row]
        assert not out.mask[row, n : n + k].any()
        np.testing.assert_allclose(
            peeked[row], world.log_probs([*out.tokens[row, : n + k], 0])[-1], rtol=0, atol=1e-5
        )
        if k:
            assert 1 <= out.length[row] - n - k <= 4
        elif before.finished[row]:
            assert out.length[row] == n and out.finished[row]
        logp = world.log_probs(out.tokens[row, : out.length[row]])
        at = np.flatnonzero(out.mask[row])
        np.testing.assert_allclose(out.logp[row, at], logp[at, out.tokens[row, at]], rtol=0, atol=1e-5)


def test_a_prefix_given_as_prompt_and_a_fork_at_it_agree(world):
    """Continuing from text and continuing from a kept cache are the same thing, also for the random draws."""
    sampler = world.sampler
    half = sampler.decode(world.params, begin(world), 3)
    texts = sampler.finish(half)
    running = np.flatnonzero(~texts.finished)[:8]
    kept = sampler.finish(sampler.decode(world.params, sampler.fork(half, np.resize(running, 32)), 100))
    prompts = [texts.tokens[row, : texts.length[row]].tolist() for row in running]
    again = sampler.begin(
        sampler.prefill(world.params, prompts),
        HOW,
        np.resize(np.arange(8), 32),
        keys()[np.resize(running, 32)],
    )
    fresh = sampler.finish(sampler.decode(world.params, again, 9))
    for row in range(8):
        n = min(kept.length[row], fresh.length[row])
        assert n > texts.length[running[row]]
        np.testing.assert_array_equal(kept.tokens[row, :n], fresh.tokens[row, :n])


def test_what_does_not_fit_is_refused(world):
    state = begin(world, Sampling(max_new_tokens=12, rules=decoding.greedy()))
    with pytest.raises(ValueError, match="cannot take 30 more: this state holds 24"):
        world.sampler.extend(world.params, state, [[4] * 30] * 32, new=1)
    with pytest.raises(ValueError, match="at least one token"):
        world.sampler.rewind(state, [0] * 32)
    with pytest.raises(ValueError, match="one list of tokens for each of the 32 rows"):
        world.sampler.extend(world.params, state, [[4]], new=1)
