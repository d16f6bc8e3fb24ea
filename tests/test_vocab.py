"""The vocabulary pass: values and gradients against full logits, finite differences in float64, -inf logits and bf16."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import entjax as ej
from entjax import features as more
from entjax import vocab

rng = np.random.default_rng(0)
B, T, D, V = 3, 7, 5, 13
HIDDEN, HEAD = rng.normal(size=(B, T, D)), rng.normal(size=(D, V))
TOKENS = jnp.asarray(rng.integers(0, V, (B, T)), jnp.int32)
WANTED = {
    "logp": vocab.logp,
    "entropy": vocab.entropy,
    "prob_sq": vocab.prob_sq,
    "prob_sq_logp": vocab.prob_sq_logp,
    "max_prob": vocab.max_prob,
    "nucleus": more.top_p_entropy(0.8),
}


def by_numpy(logits, tokens):
    """The first five features in float64, from full logits."""
    logits = np.concatenate(
        [np.zeros_like(logits[:, :1]), logits[:, :-1]], 1
    )  # predicts the token of its own index
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        log_p = np.log(p)
        terms = np.where(p > 0, p * log_p, 0)
        squares = np.where(p > 0, p**2 * log_p, 0)
    picked = np.take_along_axis(log_p, np.asarray(tokens)[..., None], -1)[..., 0]
    return {"logp": picked, "entropy": -terms.sum(-1), "prob_sq": (p**2).sum(-1), "prob_sq_logp": squares.sum(-1),
            "max_prob": p.max(-1)}  # fmt: skip


@pytest.mark.parametrize("chunk", [1000, 9, 3])
def test_features_equal_numpy(chunk):
    got = vocab.features(
        jnp.asarray(HIDDEN, jnp.float32), jnp.asarray(HEAD, jnp.float32), TOKENS, WANTED, chunk=chunk
    )
    for name, x in by_numpy(HIDDEN @ HEAD, TOKENS).items():
        np.testing.assert_allclose(got[name], x, rtol=2e-5, atol=2e-6, err_msg=name)


def weighted(hidden, head, chunk=1000, temperature=1.0):
    """A loss that uses every feature, through the sweep."""
    wide = jnp.float32 if hidden.dtype == jnp.bfloat16 else hidden.dtype
    weight = jnp.asarray(np.linspace(-1, 1, B * T).reshape(B, T), wide)

    def per_token(row):
        return sum(f(row) for f in WANTED.values()) * row.side["w"], ()

    return vocab.sweep(per_token, hidden, head, TOKENS, {"w": weight}, temperature=temperature, chunk=chunk)[
        0
    ]


def test_gradients_equal_finite_differences_in_float64():
    with jax.enable_x64(True):
        hidden, head = jnp.asarray(HIDDEN), jnp.asarray(HEAD)
        gradients = jax.grad(weighted, (0, 1))(hidden, head, 9)
        for which, x in ((0, HIDDEN), (1, HEAD)):
            for seed in range(3):
                direction = np.random.default_rng(seed).normal(size=x.shape)
                moved = lambda e, d=direction, which=which: (
                    [hidden + e * d, head] if which == 0 else [hidden, head + e * d]
                )
                slope = (weighted(*moved(1e-6)) - weighted(*moved(-1e-6))) / 2e-6
                np.testing.assert_allclose((np.asarray(gradients[which]) * direction).sum(), slope, rtol=1e-6)


@pytest.mark.parametrize("function", ["sweep", "features"])
def test_forbidden_tokens_stay_finite(function):
    """Logits of -inf (a padded or masked vocabulary) give the values and gradients of the vocabulary without them."""

    def total(hidden, head, keep):
        """The head with `keep` columns open: the others get -inf logits through a column of the hidden state."""
        wall = jnp.where(jnp.arange(V) < keep, 0.0, -jnp.inf)
        if function == "features":
            out = vocab.features(
                hidden, head, TOKENS % keep, {n: _walled(f, wall) for n, f in WANTED.items()}, chunk=9
            )
            return sum(x[:, 1:].sum() for x in out.values())
        per_token = lambda row: (sum(_walled(f, wall)(row) for f in WANTED.values()) * row.side["on"], ())
        on = jnp.ones((B, T)).at[:, 0].set(0)
        return vocab.sweep(per_token, hidden, head, TOKENS % keep, {"on": on}, chunk=9)[0]

    hidden, head = jnp.asarray(HIDDEN, jnp.float32), jnp.asarray(HEAD, jnp.float32)
    value, (d_hidden, d_head) = jax.value_and_grad(total, (0, 1))(hidden, head, 8)
    small = by_numpy(HIDDEN @ HEAD[:, :8], TOKENS % 8)
    nucleus = vocab.features(hidden, head[:, :8], TOKENS % 8, {"n": WANTED["nucleus"]})["n"]
    expected = sum(x[:, 1:].sum() for x in small.values()) + nucleus[:, 1:].sum()
    np.testing.assert_allclose(value, expected, rtol=1e-4)
    assert np.isfinite(d_hidden).all() and np.isfinite(d_head).all()
    np.testing.assert_array_equal(d_head[:, 8:], 0)


def _walled(feature, wall):
    return lambda row: feature(row.replace(logits=vocab.finite_logits(row.logits + wall)))


def test_a_certain_policy_has_zero_entropy_and_finite_gradients():
    logits = jnp.asarray([[[0.0, -jnp.inf, -jnp.inf]]])
    value = lambda x: vocab.entropy(vocab.Row(vocab.finite_logits(x), jnp.zeros((1, 1), jnp.int32))).sum()
    entropy, gradient = jax.value_and_grad(value)(logits)
    assert entropy == 0 and np.isfinite(gradient).all()


def test_bfloat16_logits_are_accumulated_in_float32():
    hidden, head = jnp.asarray(HIDDEN, jnp.bfloat16), jnp.asarray(HEAD, jnp.bfloat16)
    got = vocab.features(hidden, head, TOKENS, WANTED)
    assert all(x.dtype == jnp.float32 for x in got.values())
    exact = by_numpy(np.asarray(hidden, np.float64) @ np.asarray(head, np.float64), TOKENS)
    np.testing.assert_allclose(got["entropy"], exact["entropy"], atol=1e-5)
    gradients = jax.grad(weighted, (0, 1))(hidden, head)
    assert gradients[0].dtype == gradients[1].dtype == jnp.bfloat16


def test_temperature():
    got = vocab.features(
        jnp.asarray(HIDDEN, jnp.float32), jnp.asarray(HEAD, jnp.float32), TOKENS, WANTED, temperature=0.5
    )
    np.testing.assert_allclose(
        got["entropy"], by_numpy(HIDDEN @ HEAD / 0.5, TOKENS)["entropy"], rtol=1e-4, atol=1e-6
    )


def test_no_full_logits_array_exists():
    """The compiled sweep of a large vocabulary needs less temporary memory than one [B, T, V] array."""
    b, t, d, v = 4, 256, 16, 20_000
    shapes = (jax.ShapeDtypeStruct((b, t, d), jnp.float32), jax.ShapeDtypeStruct((d, v), jnp.float32))
    tokens = jnp.zeros((b, t), jnp.int32)
    loss = lambda h, w: vocab.sweep(lambda row: (-vocab.logp(row), ()), h, w, tokens, {}, chunk=64)[0]
    memory = jax.jit(jax.grad(loss, (0, 1))).lower(*shapes).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 0.5 * 4 * b * t * v


def test_the_first_token_of_a_row_is_predicted_by_nothing():
    assert not np.asarray(vocab.before(jnp.ones((2, 3, 4))))[:, 0].any()
    assert ej.vocab is vocab
