"""Two models in one text: who writes which token, and that both see the same text."""

import jax
import numpy as np
import pytest
from flax import nnx

from entjax import decoding, models
from entjax.decoding.ead import BIT, Switch, Writer, after_token
from entjax.rollouts.switching import Model, switching
from entjax.sampler import Sampling, make_sampler
from tests.sampler.conftest import EOS, PROMPTS, VOCAB, World

SHARP = 0.1  # the tiny models are close to uniform
HOW = Sampling(max_new_tokens=20, temperature=SHARP)
MANY = [*PROMPTS, *([i, 30 - i - 2] for i in range(2, 14))]


@pytest.fixture(scope="module")
def other(world):
    """A model of another structure with the same vocabulary."""
    model = models.Decoder(
        models.tiny(vocab=VOCAB, width=16, layers=1, heads=2, kv_heads=1), rngs=nnx.Rngs(4)
    )
    params = jax.tree.map(lambda x: x * 2.5, nnx.split(model)[1])
    nnx.update(model, params)
    return World(model, params, make_sampler(model, eos_ids=[EOS], shapes=world.sampler.shapes))


def run(small, large, rule, how=HOW, **options):
    pair = (Model(small.sampler, small.params), Model(large.sampler, large.params))
    return switching(*pair, MANY, how, rule, key=jax.random.key(2), **options)


def plain(world, how=HOW):
    return world.sampler.generate(world.params, MANY, how, key=jax.random.key(2))


def assert_same(a, b):
    for name in ("tokens", "mask", "length", "finished", "prompt_length"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
    np.testing.assert_allclose(a.logp, b.logp, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(a.entropy, b.entropy, rtol=1e-5, atol=1e-5)


def test_two_equal_models_sample_what_one_samples(world):
    out, by_large = run(world, world, Switch(tau=1.4, window=2, d_min=1))
    assert 0.05 < by_large[out.mask].mean() < 0.95
    assert_same(out, plain(world))


def test_a_threshold_out_of_reach_leaves_one_model(world, other):
    out, by_large = run(world, other, Switch(tau=99.0))
    assert_same(out, plain(world))
    assert not by_large.any()
    greedy = Sampling(max_new_tokens=20, rules=decoding.greedy())
    assert_same(run(world, other, Switch(tau=99.0), greedy).completions, plain(world, greedy))


def test_every_token_comes_from_the_model_whose_turn_it_is(world, other):
    rule = Switch(tau=1.3, window=3, d_min=2)
    out, by_large = run(world, other, rule)
    switches = 0
    for row, prompt in enumerate(MANY):
        length = out.length[row]
        assert out.tokens[row, : len(prompt)].tolist() == prompt
        assert out.mask[row].tolist() == [len(prompt) <= t < length for t in range(len(out.mask[row]))]
        logp = [w.log_probs(out.tokens[row, :length], SHARP) for w in (world, other)]
        writer = Writer()
        for t in range(len(prompt), length):
            assert by_large[row, t] == writer.model
            p = logp[writer.model][t]
            h = -(np.exp(p) * p).sum()
            np.testing.assert_allclose(out.logp[row, t], p[out.tokens[row, t]], rtol=0, atol=2e-4)
            np.testing.assert_allclose(out.entropy[row, t], h, rtol=0, atol=2e-4)
            last, writer = writer, after_token(writer, h / BIT, rule)
            switches += last.model != writer.model
        assert out.finished[row] == (out.tokens[row, length - 1] == EOS)
        assert out.finished[row] or length == len(prompt) + 20
    assert switches > 20
    assert not by_large[~out.mask].any()


def test_how_often_the_host_looks_does_not_matter(world, other):
    rule = Switch(tau=1.3, window=3, d_min=2)
    want = run(world, other, rule)
    for look in (1, 50):
        out = run(world, other, rule, look=look)
        assert_same(out.completions, want.completions)
        np.testing.assert_array_equal(out.large, want.large)


def test_impossible_rules_are_refused(world):
    with pytest.raises(ValueError, match="got 0 and 10"):
        run(world, world, Switch(window=0))
    with pytest.raises(ValueError, match="look >= 1, got 0"):
        run(world, world, Switch(), look=0)
