"""Entropic particle filtering: the annealing's promises, unbiased resampling, and the search over a tiny decoder."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from entjax.rollouts import particles
from entjax.rollouts.particles import Plan, particle_filter
from entjax.sampler import Sampling
from tests.sampler.conftest import EOS, PROMPTS

HOW = Sampling(max_new_tokens=12)


def weights(seed, n=8, spread=3.0):
    return jnp.asarray(np.random.default_rng(seed).normal(0, spread, (64, n)), jnp.float32)


@pytest.mark.parametrize("rule", [particles.by_ess, particles.by_entropy, particles.by_progress])
@pytest.mark.parametrize("progress", [0.0, 0.2, 0.49])
def test_annealing_only_spreads_the_weight(rule, progress):
    log_w = weights(0)
    tau = particles.temperature(log_w, progress, rule)
    raw = particles.effective_size(jax.nn.softmax(log_w))
    after = particles.effective_size(jax.nn.softmax(log_w / tau[:, None]))
    active = np.asarray(raw) / 8 < 0.5
    assert active.any() and not active.all()
    assert (after >= raw * (1 - 1e-5)).all() and (np.asarray(tau)[active] > 1).all()
    np.testing.assert_array_equal(np.asarray(tau)[~active], 1)


def test_no_annealing_late_nor_for_equal_weights_nor_for_one_particle():
    for rule in (particles.by_ess, particles.by_entropy, particles.by_progress):
        assert (particles.temperature(weights(1), 0.5, rule) == 1).all()
        assert (particles.temperature(jnp.zeros((1, 8)), 0.1, rule) == 1).all()
        assert (particles.temperature(weights(1, n=1), 0.1, rule) == 1).all()


def test_weights_stay_finite_at_certain_scores():
    log_w = particles.log_weight(jnp.asarray([0.0, 0.5, 1.0]))
    np.testing.assert_allclose(log_w, [np.log(1e-7), 0, -np.log(1e-7)], rtol=1e-2, atol=1e-6)
    w = jnp.asarray([1.0, 0.0, 0.0, 0.0], jnp.float32)
    np.testing.assert_allclose(particles.effective_size(w), 1 / (1 + 3e-14), rtol=1e-6)


def test_systematic_resampling_copies_in_proportion():
    probs = jax.nn.softmax(weights(2, spread=1.0))
    drawn = np.asarray(particles.systematic(probs, jax.random.key(0)))
    copies = np.stack([np.bincount(row, minlength=8) for row in drawn])
    expected = 8 * np.asarray(probs)
    assert (copies >= np.floor(expected - 1e-4)).all() and (copies <= np.ceil(expected + 1e-4)).all()
    assert (np.diff(drawn, axis=-1) >= 0).all()
    short = jnp.asarray([0.25, 0.25, 0.4999, 0.0])  # a sum below 1, as rounding leaves it
    assert np.asarray(particles.systematic_at(short, jnp.asarray(0.9999))).tolist() == [0, 1, 2, 2]


@pytest.mark.parametrize("rule", [particles.systematic, particles.multinomial])
def test_resampling_is_unbiased(rule):
    probs = jnp.asarray([0.5, 0.05, 0.3, 0.15])
    many = jax.vmap(lambda key: rule(probs, key))(jax.random.split(jax.random.key(1), 4000))
    share = np.bincount(np.asarray(many).ravel(), minlength=4) / many.size
    np.testing.assert_allclose(share, probs, atol=0.015)


# The search --------------------------------------------------------------------------------------------------------------------


def search(world, score, **plan):
    plan = Plan(**{"steps": 6, "tokens": 2, "particles": 8, **plan})
    return particle_filter(world.sampler, world.params, PROMPTS, HOW, score, plan, key=jax.random.key(3))


def in_order(probs, key):
    return jnp.broadcast_to(jnp.arange(probs.shape[-1], dtype=jnp.int32), probs.shape)


def test_without_resampling_it_is_plain_sampling(world):
    want = world.sampler.generate(world.params, PROMPTS, HOW, key=jax.random.key(3), samples=8)
    found = search(world, lambda owner, texts: np.full(len(texts), 0.5), resampling=in_order)
    np.testing.assert_array_equal(found.completions.tokens, want.tokens)
    np.testing.assert_array_equal(found.completions.group, want.group)
    np.testing.assert_array_equal(found.completions.finished, want.finished)


def test_steps_that_end_with_a_token_only_pause(world):
    flat = lambda owner, texts: np.full(len(texts), 0.5)
    want = search(world, flat, resampling=in_order).completions
    ends = (7, 11, 20)
    assert np.isin(want.tokens[want.mask], ends).any()
    lengths = []

    def watch(owner, texts):
        lengths.append([len(text) for text in texts])
        return flat(owner, texts)

    out = search(world, watch, resampling=in_order, ends=ends, steps=12, tokens=4).completions
    np.testing.assert_array_equal(out.tokens, want.tokens)
    np.testing.assert_array_equal(out.finished, want.finished)
    assert len({tuple(np.diff(x)) for x in zip(*lengths)}) > 8  # steps of different lengths
    tokens = out.tokens[np.arange(32), out.prompt_length + np.asarray(lengths[0]) - 1]
    assert (np.isin(tokens, (*ends, EOS)) | (np.asarray(lengths[0]) == 4)).all()


def test_a_place_that_takes_another_particle_draws_new_numbers(world):
    """Under a uniform policy a draw is its random number. With the first particle copied everywhere, and steps that end anywhere,
    a place comes by positions at which its own particle, now lost, had drawn."""
    seen, even = [], world._replace(params=jax.tree.map(jnp.zeros_like, world.params))

    def watch(owner, texts):
        seen.append([list(text) for text in texts])
        return np.full(len(texts), 0.5)

    first = lambda probs, key: jnp.zeros(probs.shape, jnp.int32)
    search(even, watch, resampling=first, ends=tuple(range(2, 9)), steps=5, tokens=6)
    pairs = [
        (lost[at], now[at])
        for before, after in itertools.pairwise(seen)
        for row, (lost, now) in enumerate(zip(before, after, strict=True))
        for at in range(len(before[row - row % 8]), min(len(lost), len(now)))
        if row % 8
    ]
    assert (
        len(pairs) > 50 and np.mean([a == b for a, b in pairs]) < 0.15
    )  # by chance 1 / 29; all of them with the old key


def test_what_a_search_cannot_keep_is_refused(world):
    run = lambda how, prompts=PROMPTS: particle_filter(
        world.sampler,
        world.params,
        prompts,
        how,
        lambda owner, texts: np.zeros(len(texts)),
        Plan(2, 2),
        key=jax.random.key(3),
    )
    with pytest.raises(ValueError, match="stops at token ids"):
        run(Sampling(max_new_tokens=4, stop_strings=("a",)))
    with pytest.raises(ValueError, match="exceed the model's context"):
        run(Sampling(max_new_tokens=world.model.config.context))
    with pytest.raises(ValueError, match="one number or 32 of them"):
        run(Sampling(max_new_tokens=4, temperature=[1.0, 2.0]))


@pytest.mark.parametrize("annealing", [None, particles.by_ess])
def test_search_finds_what_the_score_likes(world, annealing):
    """The score counts a token: the answers of the search have more of it than samples have, within each prompt's rows."""
    like = 9
    share = lambda text: (1 + 3 * text.count(like)) / (1 + 3 * 12)
    score = lambda owner, texts: np.array([share(text) for text in texts])
    plain = search(world, score, resampling=in_order)
    found = search(world, score, annealing=annealing)
    count = lambda search: (search.completions.tokens * search.completions.mask == like).sum(-1)
    assert count(found).mean() > 1.5 * count(plain).mean()
    for prompt, row in enumerate(found.best):
        assert row // 8 == prompt
        assert count(found)[row] == count(found)[8 * prompt : 8 * prompt + 8].max()
    out = found.completions
    for row in range(32):
        assert out.tokens[row, : len(PROMPTS[row // 8])].tolist() == PROMPTS[row // 8]
        at = np.flatnonzero(out.mask[row])
        logp = world.log_probs(out.tokens[row, : out.length[row]])
        np.testing.assert_allclose(out.logp[row, at], logp[at, out.tokens[row, at]], rtol=0, atol=1e-5)
    assert found.ess.shape == found.temperature.shape and found.ess.shape[1] == 4
    assert (found.temperature >= 1).all() and (annealing is not None or (found.temperature == 1).all())


def test_impossible_plans_are_refused(world):
    with pytest.raises(ValueError, match="at least one particle"):
        search(world, lambda owner, texts: np.zeros(len(texts)), particles=0)
