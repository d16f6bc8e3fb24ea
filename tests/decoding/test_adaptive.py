"""Rules that look at the entropy of every step, inside the sampler's loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from entjax import decoding
from entjax.decoding.stable_entropy import MEAN, SPREAD, StableEntropy
from entjax.sampler import Sampling
from entjax.transform import chain
from tests.decoding.test_rules import logits_of
from tests.sampler.conftest import PROMPTS

TOKENS = 12


def context_of(logits, temperature=1.0, index=0):
    """What a rule sees when the model's logits are these."""
    logits = jnp.asarray(logits)
    logp = jax.nn.log_softmax(logits / temperature, axis=-1)
    rows = logits.shape[0]
    at = jnp.broadcast_to(jnp.asarray(index, jnp.int32), (rows,))
    return decoding.DecodeContext(
        position=at + 3,
        index=at,
        entropy=-jnp.sum(jnp.exp(logp) * logp, axis=-1),
        logp=logp,
        temperature=jnp.full(rows, temperature),
        key=jax.random.split(jax.random.key(0), rows),
    )


def run(rule, logits, context):
    return np.asarray(rule.update(jnp.asarray(logits), rule.init(jnp.asarray(logits)), context)[0])


def sample(world, rules, seed=3, temperature=1.0):
    how = Sampling(max_new_tokens=TOKENS, rules=rules, temperature=temperature)
    return world.sampler.generate(world.params, PROMPTS, how, key=jax.random.key(seed), samples=8)


def same(a, b):
    np.testing.assert_array_equal(a.tokens, b.tokens)


def sampled(out):
    """(row, position) of every sampled token, and the policy's log-probs there as a plain full forward gives them."""
    return [(row, at) for row in range(0, len(out.length), 5) for at in np.flatnonzero(out.mask[row])]


# EDT -------------------------------------------------------------------------------------------------------------------------


def test_edt_scales_the_models_logits_whatever_the_policy_temperature():
    logits = logits_of(0, scale=1.0)
    rule = decoding.edt(base=0.8, theta=0.6)
    p = np.exp(logits.astype(np.float64))
    p /= p.sum(-1, keepdims=True)
    t = 0.8 * 0.8 ** (0.6 / -(p * np.log(p)).sum(-1, keepdims=True))
    for temperature in (1.0, 0.5, 3.0):
        out = run(rule, logits / np.float32(temperature), context_of(logits, temperature))
        np.testing.assert_allclose(out, logits / t, rtol=2e-5)


def test_edt_takes_the_mode_where_the_model_is_sure_or_the_temperature_vanishes():
    logits = logits_of(1, scale=1.0)
    logits[0, 7] += 80.0
    greedy = np.asarray(decoding.greedy().update(jnp.asarray(logits), (), None)[0])
    out = run(decoding.edt(), logits, context_of(logits))
    np.testing.assert_array_equal(out[0], greedy[0])
    assert np.isfinite(out[1:]).all()
    np.testing.assert_array_equal(
        run(decoding.edt(theta=1e3), logits, context_of(logits)), greedy
    )  # T < 1e-3
    flat = np.zeros((1, 10_000), np.float32)
    theta = 1.0
    t = 0.8 ** (theta / np.log(10_000))
    np.testing.assert_allclose(
        run(decoding.edt(theta=theta), flat + 1, context_of(flat)), (flat + 1) / t, rtol=1e-5
    )


def test_edt_in_the_loop(world):
    same(sample(world, decoding.edt(theta=1e4)), sample(world, decoding.greedy()))
    same(sample(world, decoding.edt(theta=0.0)), sample(world, None))
    out = sample(world, decoding.edt(base=0.9, theta=0.5), temperature=2.0)
    for row, at in sampled(out):
        logp = world.log_probs(out.tokens[row, : out.length[row]])[at]
        h = -(np.exp(logp) * logp).sum()
        tempered = logp / (0.9 * 0.8 ** (0.5 / h))
        want = tempered[out.tokens[row, at]] - np.log(np.exp(tempered).sum())
        np.testing.assert_allclose(out.sampled_logp[row, at], want, rtol=0, atol=2e-5)


# HAPO ------------------------------------------------------------------------------------------------------------------------

KNOBS = {"hapo_pivot": 0.5, "hapo_spread": 0.3, "hapo_up": 0.4, "hapo_down": -0.2}


def test_hapo_in_the_loop(world):
    plain = sample(world, None)
    same(sample(world, decoding.hapo()), plain)
    same(sample(world, decoding.hapo({**KNOBS, "hapo_pivot": float("nan")})), plain)
    same(sample(world, decoding.hapo(KNOBS, tau=0.0)), plain)
    out = sample(world, decoding.hapo(KNOBS, tau=0.5), temperature=1.5)
    hot = 0
    for row, at in sampled(out):
        logp = world.log_probs(out.tokens[row, : out.length[row]])[at]
        z = (np.log(-(np.exp(logp) * logp).sum()) - 0.5) / (0.3 + 1e-6)
        h = np.clip(z * 0.4 if z > 0 else z * 0.2, -1, 1)
        hot += h > 0
        tempered = logp / (1.5 * (1 + 0.5 * h))
        want = tempered[out.tokens[row, at]] - np.log(np.exp(tempered).sum())
        np.testing.assert_allclose(out.sampled_logp[row, at], want, rtol=0, atol=2e-5)
    assert hot > 0


def test_hapo_knobs_of_the_next_rollout_run_the_same_program(world):
    sample(world, decoding.hapo())
    before = world.sampler.device.advance._cache_size()
    for pivot in (0.1, 0.9):
        sample(world, chain(decoding.hapo({**KNOBS, "hapo_pivot": pivot})))
    assert world.sampler.device.advance._cache_size() == before


# Stable entropy --------------------------------------------------------------------------------------------------------------


def test_defaults_are_a_zone_of_positive_width():
    t = np.arange(200.0)
    assert (np.polyval(SPREAD[::-1], t[:90]) > 0).all() and (np.polyval(MEAN[::-1], t) > 2).all()


@pytest.mark.parametrize("index", [0, 4, 5, 40])
def test_stable_entropy_samples_only_above_the_zone(index):
    logits = logits_of(2, rows=12, scale=2.0)
    context = context_of(logits, index=index)
    h = np.asarray(context.entropy)
    rule = decoding.stable_entropy(
        mean=(np.median(h) - 0.4, 0.001), spread=(0.2, 0.0, 1e-5), width=1.5, start=4
    )
    out = run(rule, logits, context)
    above = h > np.median(h) - 0.4 + 0.001 * index + 1.5 * (0.2 + 1e-5 * index**2)
    free = above & (index > 4)
    np.testing.assert_array_equal(np.isfinite(out).sum(-1), np.where(free, logits.shape[1], 1))
    np.testing.assert_array_equal(out.argmax(-1), logits.argmax(-1))
    assert index <= 4 or 0 < free.sum() < 12


def test_a_changed_position_takes_the_token_of_its_rank():
    logits = logits_of(3)
    logits[4, 3:] = -np.inf
    rule = decoding.stable_entropy(start=100)
    start = rule.init(jnp.asarray(logits))
    assert isinstance(start, StableEntropy)
    state = start._replace(index=jnp.asarray([9, 9, 9, 8, 9, 9]), rank=jnp.asarray([0, 1, 6, 2, 50, 100]))
    out = np.asarray(rule.update(jnp.asarray(logits), state, context_of(logits, index=9))[0])
    order = np.argsort(-logits, axis=-1)
    np.testing.assert_array_equal(np.isfinite(out).sum(-1), 1)
    want = [order[0, 0], order[1, 1], order[2, 6], order[3, 0], order[4, 2], order[5, 100]]
    np.testing.assert_array_equal(out.argmax(-1), want)


def test_stable_entropy_at_its_ends(world):
    never, always = decoding.stable_entropy(mean=(99.0,)), decoding.stable_entropy(mean=(-99.0,), start=-1)
    same(sample(world, never), sample(world, decoding.greedy()))
    same(sample(world, always), sample(world, None))
    same(sample(world, chain(decoding.top_k(3), always)), sample(world, decoding.top_k(3)))
    same(sample(world, chain(decoding.top_k(1), always)), sample(world, decoding.greedy()))


# Identities ------------------------------------------------------------------------------------------------------------------


def test_one_token_left_is_greedy(world):
    want = sample(world, decoding.greedy())
    for rule in (
        decoding.epsilon(1.0),
        decoding.top_h(1e-6),
        decoding.top_n_sigma(0.0),
        decoding.top_p(1e-6),
        decoding.min_p(1.0),
    ):
        same(sample(world, rule), want)


def test_everything_left_is_the_policy(world):
    want = sample(world, None)
    for rule in (
        decoding.epsilon(0.0),
        decoding.top_n_sigma(1e6),
        decoding.em_inf(steps=0),
        decoding.top_p(1.0),
    ):
        same(sample(world, rule), want)
