"""The draw follows the distribution, never takes a removed token, and forbidden vocabulary keeps everything finite."""

import jax
import jax.numpy as jnp
import numpy as np

from entjax.sampler import policy, sequence_keys


def draws(logits, count, seed=0):
    keys = jax.random.split(jax.random.key(seed), count)
    rows = jnp.broadcast_to(logits, (count, *logits.shape))
    return np.asarray(jax.jit(lambda keys, x: policy.draw(keys, policy.Distribution.of(x).mass))(keys, rows))


def test_draws_follow_the_distribution_over_several_blocks():
    rng = np.random.default_rng(0)
    size, count = policy.CHUNK * 2 + 77, 40_000
    logits = rng.normal(0, 2.5, size)
    logits[rng.random(size) < 0.3] = -np.inf
    logits[policy.CHUNK - 3 : policy.CHUNK + 5] = 4.0  # mass on both sides of a border
    p = np.exp(logits) / np.exp(logits).sum()
    seen = np.bincount(draws(jnp.asarray(logits, jnp.float32), count), minlength=size)
    assert seen[p == 0].sum() == 0
    order = np.argsort(p)[::-1]
    # Cells of at least 1/60 of the mass; chi-square with k - 1 degrees has mean k - 1 and deviation sqrt(2 (k - 1)).
    cell = np.minimum(np.cumsum(p[order]) * 60, 59.999).astype(int)
    want, got = np.bincount(cell, p[order], 60) * count, np.bincount(cell, seen[order], 60)
    want, got = want[want > 0], got[want > 0]
    k = len(want)
    assert k > 30
    assert ((got - want) ** 2 / want).sum() < k - 1 + 5 * np.sqrt(2 * (k - 1))


def test_rare_tokens_keep_their_probability():
    """A tail of 2000 tokens of 1e-5 each, behind one that has nearly everything: one float32 number would round it."""
    p = np.full(2001, 1e-5)
    p[0] = 1 - p[1:].sum()
    seen = draws(jnp.asarray(np.log(p), jnp.float32), 50_000, seed=1)
    tail = (seen > 0).sum()
    assert abs(tail - 1000) < 5 * np.sqrt(1000)
    assert len(np.unique(seen[seen > 0])) > 700  # expected 787 different ones of 2000


def test_the_only_token_left_is_drawn():
    logp = jnp.full((1300,), -jnp.inf).at[777].set(0.0)
    assert (draws(logp, 64) == 777).all()


def test_forbidden_logits_stay_finite():
    hidden = jnp.ones((3, 1))
    head = jnp.asarray([[1.0, 2.0, -jnp.inf, 0.5, -jnp.inf]])
    logits = policy.next_logits(hidden, head, jnp.asarray([1.0, 0.5, 2.0]))
    found = policy.Distribution.of(logits)
    logp = np.asarray(found.log_probs)
    assert np.isfinite(logp).all()
    p = np.exp(np.array([[1.0, 2.0, 0.5]]) / np.array([[1.0], [0.5], [2.0]]))
    p /= p.sum(-1, keepdims=True)
    np.testing.assert_allclose(logp[:, [0, 1, 3]], np.log(p), rtol=1e-5)
    np.testing.assert_allclose(found.entropy, -(p * np.log(p)).sum(-1), rtol=1e-5)
    removed = policy.Distribution.of(
        jnp.where(jnp.asarray([True, False, False, True, False])[None], logp, -jnp.inf)
    )
    left = p[:, [0, 2]] / p[:, [0, 2]].sum(-1, keepdims=True)
    np.testing.assert_allclose(removed.entropy, -(left * np.log(left)).sum(-1), rtol=1e-5)
    np.testing.assert_allclose(
        removed.log_prob(jnp.asarray([0, 3, 0])), np.log(left[[0, 1, 2], [0, 1, 0]]), rtol=1e-5
    )


def test_statistics_of_a_row_are_those_of_float64():
    rng = np.random.default_rng(3)
    logits = rng.normal(0, 1, (6, 3000)) * np.array([0.01, 1, 5, 20, 60, 1])[:, None]
    logits[5, 7] = 90.0  # nearly certain
    logits[0] += 1000.0  # where float32 has steps of 6e-5
    found = policy.Distribution.of(jnp.asarray(logits, jnp.float32))
    exact = np.asarray(logits.astype(np.float32), np.float64)
    exact -= exact.max(-1, keepdims=True)
    exact -= np.log(np.exp(exact).sum(-1, keepdims=True))
    np.testing.assert_allclose(found.log_probs, exact, rtol=1e-6, atol=2e-6)
    np.testing.assert_allclose(found.entropy, -(np.exp(exact) * exact).sum(-1), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(
        found.log_prob(jnp.arange(6)), found.log_probs[jnp.arange(6), jnp.arange(6)]
    )


def test_statistics_are_float32_when_the_model_computes_in_bfloat16():
    hidden, head = jax.random.normal(jax.random.key(0), (2, 8), jnp.bfloat16), jnp.ones((8, 5), jnp.float32)
    assert policy.next_logits(hidden, head, jnp.ones(2)).dtype == jnp.float32


def test_keys_are_functions_of_names():
    names = jnp.asarray([[4, 0], [4, 1], [5, 0], [0, 4]], jnp.int32)
    data = lambda step, rows: jax.random.key_data(
        sequence_keys(jax.random.key(1), step, rows[:, 0], rows[:, 1])
    ).tolist()
    here = data(0, names)
    assert data(0, names[::-1]) == here[::-1]
    assert len({tuple(k) for k in here + data(1, names)}) == 8
