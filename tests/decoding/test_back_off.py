"""The back-off of entropy-aware decoding, against a slow loop that looks after every token."""

import jax
import numpy as np
import pytest

from entjax import decoding
from entjax.rollouts.back_off import back_off
from entjax.sampler import Sampling
from tests.sampler.conftest import EOS, LONGEST, PROMPTS

MANY = [[i, i + 1, (7 * i) % 25 + 2] for i in range(2, 18)]
MEAN, SPREAD, WIDTH, START = (1.5, 0.01), (0.3,), 1.0, 1
TOKENS, SHARP = 24, 0.15


def run(world, prompts=MANY, **options):
    rule = decoding.stable_entropy(MEAN, SPREAD, width=WIDTH, start=START)
    how = Sampling(max_new_tokens=TOKENS, rules=rule, temperature=SHARP)
    return back_off(world.sampler, world.params, prompts, how, key=jax.random.key(5), **options)


def reference(world, prompt, drawn, patience, most):
    """One row, token by token; where the rule samples, `drawn` gives the token of the result."""
    tokens, ranks, used, run = list(prompt), {}, 0, 0
    while len(tokens) - len(prompt) < TOKENS:
        t = len(tokens) - len(prompt)
        logp = world.log_probs([*tokens, 0], SHARP)[-1]
        h = -(np.exp(logp) * logp).sum()
        middle, margin = MEAN[0] + MEAN[1] * t, WIDTH * SPREAD[0]
        run = run + 1 if t > START and h < middle - margin else 0
        if run > patience and used < most:
            back = t - patience
            tokens, used, run = tokens[: len(prompt) + back], used + 1, 0
            ranks = {back: ranks.get(back, 0) + 1}
            continue
        if t in ranks:
            token = int(np.argsort(-logp, kind="stable")[ranks[t]])
        else:
            token = (
                drawn[min(len(tokens), len(drawn) - 1)]
                if t > START and h > middle + margin
                else int(logp.argmax())
            )
        tokens.append(token)
        if token == EOS:
            break
    return tokens, used


@pytest.mark.parametrize(("patience", "most"), [(1, 3), (2, 10)])
def test_agrees_with_a_loop_that_looks_after_every_token(world, patience, most):
    assert TOKENS + 3 < LONGEST
    out, used = run(world, patience=patience, most=most)
    for row, prompt in enumerate(MANY):
        got = out.tokens[row, : out.length[row]].tolist()
        want, times = reference(world, prompt, [*got, 0], patience, most)
        assert got == want and used[row] == times, row
    assert (used > 0).sum() >= 2 and (used == 0).any() and used.max() > 1


def test_how_often_the_host_looks_does_not_matter(world):
    want, used = run(world, patience=1)
    for look in (1, 5, 100):
        out, again = run(world, patience=1, look=look)
        np.testing.assert_array_equal(out.tokens, want.tokens)
        np.testing.assert_array_equal(out.mask, want.mask)
        np.testing.assert_array_equal(used, again)


def test_without_ruts_it_is_plain_generation(world):
    how = Sampling(max_new_tokens=12, rules=decoding.stable_entropy(MEAN, SPREAD))
    out, used = back_off(world.sampler, world.params, PROMPTS, how, key=jax.random.key(5), patience=12)
    want = world.sampler.generate(world.params, PROMPTS, how, key=jax.random.key(5))
    np.testing.assert_array_equal(out.tokens, want.tokens)
    assert (used == 0).all()


def test_what_is_missing_is_said(world):
    with pytest.raises(ValueError, match=r"needs decoding\.stable_entropy"):
        back_off(world.sampler, world.params, PROMPTS, Sampling(12), key=jax.random.key(0))
    with pytest.raises(ValueError, match="from 1, got 0"):
        run(world, patience=0)
