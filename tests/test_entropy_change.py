"""Entropy-change estimators against the true change of a tabular softmax, and the normalisers of their sizes."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import entjax as ej
from entjax import entropy_change as change
from tests import tiny

ESTIMATORS = (
    change.exact_first_order,
    change.discriminator,
    change.steer_theorem,
    change.steer_code,
    change.covariance,
)


@contextlib.contextmanager
def float64():
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        yield


def table(states=4000, vocab=17, drift=0.0, seed=0):
    """States of a tabular softmax, from nearly uniform to nearly certain, each with a sampled token, an advantage and a
    behaviour policy `drift` away."""
    rng = np.random.default_rng(seed)
    logits = rng.uniform(0.3, 4.0, (states, 1)) * rng.normal(size=(states, vocab))
    old = logits + drift * rng.normal(size=logits.shape)
    p_old = np.exp(old - np.logaddexp.reduce(old, -1, keepdims=True))
    token = np.array([rng.choice(vocab, p=p / p.sum()) for p in p_old])
    return logits, old, token, rng.normal(size=states)


def situation(logits, old, token, advantage, clip=(0.8, 1.2)):
    """The table as one column of a batch: (signal, context)."""
    pick = lambda z: ej.vocab.Row(jnp.asarray(z)[:, None], jnp.asarray(token, jnp.int32)[:, None])
    now, before = pick(logits), pick(old)
    names = ("logp", "entropy", "prob_sq", "prob_sq_logp")
    stats = {name: getattr(ej.vocab, name)(now) for name in names}
    n = len(token)
    zeros = jnp.zeros((n, 1))
    rollout = tiny.rollout(batch=8).replace(
        tokens=now.token, mask=jnp.ones((n, 1), bool), logp=zeros, entropy=ej.vocab.entropy(before),
        old_logp=ej.vocab.logp(before), reward=jnp.zeros(n), group=jnp.zeros(n, jnp.int32),
    )  # fmt: skip
    signal = ej.Signal.start(rollout)
    full = lambda x: jnp.full_like(signal.weight, x)
    signal = signal.replace(
        advantage=jnp.asarray(advantage)[:, None], clip_low=full(clip[0]), clip_high=full(clip[1])
    )
    return signal, ej.Context(rollout, stats)


def true_change(logits, old, token, advantage, eta=1e-6):
    """(H(z + eta g (e_k - p)) - H(z)) / eta in NumPy, g = r A, the gradient of the unclipped surrogate."""
    log_softmax = lambda z: z - np.logaddexp.reduce(z, -1, keepdims=True)
    entropy = lambda z: -(np.exp(log_softmax(z)) * log_softmax(z)).sum(-1)
    rows = np.arange(len(token))
    r = np.exp(log_softmax(logits)[rows, token] - log_softmax(old)[rows, token])
    step = np.eye(logits.shape[1])[token] - np.exp(log_softmax(logits))
    return (entropy(logits + eta * (r * advantage)[:, None] * step) - entropy(logits)) / eta


def correlations(vocab, drift=0.0, seed=0):
    with float64():
        case = table(vocab=vocab, drift=drift, seed=seed)
        truth = true_change(*case)
        signal, context = situation(*case, clip=(0.0, 1e9))
        return truth, {e.name: np.asarray(e.score(signal, context))[:, 0] for e in ESTIMATORS}


def test_correlation_with_the_true_change():
    """Exact first order is exact; the theorem beats the released code, which beats the covariance (V = 17)."""
    truth, scores = correlations(17)
    r = {name: np.corrcoef(score, truth)[0, 1] for name, score in scores.items()}
    assert r["exact_first_order"] > 0.99999
    published = {"steer_theorem": 0.79, "steer_code": 0.70, "covariance": 0.64}
    for name, expected in published.items():
        assert r[name] == pytest.approx(expected, abs=0.04), r


@pytest.mark.parametrize("drift", [0.0, 0.5])
def test_exact_first_order_is_the_derivative(drift):
    truth, scores = correlations(11, drift, seed=1)
    np.testing.assert_allclose(scores["exact_first_order"], truth, atol=2e-4 * np.abs(truth).max())


def test_single_logit_theorem():
    """dH for z_k += eps is -eps S_k."""
    with float64():
        logits, _, token, _ = table(states=50)
        signal, context = situation(logits, logits, token, np.ones(50))
        step = 1e-5 * np.eye(17)[token]
        entropy = lambda z: np.asarray(
            ej.vocab.entropy(ej.vocab.Row(jnp.asarray(z), jnp.asarray(token, jnp.int32)))
        )
        slope = (entropy(logits + step) - entropy(logits - step)) / 2e-5
        np.testing.assert_allclose(
            change.discriminator.score(signal, context)[:, 0], slope, rtol=1e-6, atol=1e-9
        )


def test_expected_change_without_advantage_is_zero():
    """sum_k p_k (S_k - N) = 0, and N itself by summing over the vocabulary."""
    with float64():
        logits = jnp.asarray(table(states=5)[0])
        p, log_p = jax.nn.softmax(logits), jax.nn.log_softmax(logits)
        row = ej.vocab.Row(logits, jnp.zeros(5, jnp.int32))
        entropy = ej.vocab.entropy(row)
        s = change.discriminator_score(log_p, entropy[:, None])
        n = change.expected_score(entropy, ej.vocab.prob_sq(row), ej.vocab.prob_sq_logp(row))
        np.testing.assert_allclose((p * s).sum(-1), n, rtol=1e-12)
        np.testing.assert_array_equal(s > 0, log_p > -entropy[:, None])


def test_clipped_tokens_change_nothing():
    """I = 0 where PPO's gradient is 0: A > 0 above the range, A < 0 below it; the released code has no I."""
    logits, _, token, _ = table(states=4)
    old = logits.copy()
    old[np.arange(4), token] += np.array([-2.0, -2.0, 2.0, 2.0])  # r > 1.2, r > 1.2, r < 0.8, r < 0.8
    with float64():
        signal, context = situation(logits, old, token, np.array([1.0, -1.0, 1.0, -1.0]))
        r = np.exp(np.asarray(context.stats["logp"] - context.rollout.old_logp))[:, 0]
        assert (r[:2] > 1.2).all() and (r[2:] < 0.8).all()
        for estimator in (change.exact_first_order, change.discriminator, change.steer_theorem):
            np.testing.assert_array_equal(
                estimator.score(signal, context)[:, 0] == 0, [True, False, False, True]
            )
        assert (change.steer_code.score(signal, context) != 0).all()


def test_quadrants_of_the_theorem():
    """Reinforcing a likely token lowers entropy, an unlikely one raises it; punishing does the reverse."""
    logits = np.log(np.array([[0.9, 0.05, 0.05]] * 4))
    token = np.array([0, 1, 0, 1])
    with float64():
        signal, context = situation(logits, logits, token, np.array([1.0, 1.0, -1.0, -1.0]))
        for estimator in (
            change.exact_first_order,
            change.discriminator,
            change.steer_theorem,
            change.steer_code,
        ):
            sign = np.sign(estimator.score(signal, context)[:, 0])
            np.testing.assert_array_equal(sign, [-1, 1, 1, -1], err_msg=estimator.name)


def test_normalisers():
    """One outlier pushes `peak` and `minmax` to one end; `winsorised` and `rank` keep the spread of the rest."""
    rng = np.random.default_rng(0)
    u = jnp.asarray(rng.uniform(size=(8, 25)), jnp.float32).at[0, 0].set(1000.0)
    mask = jnp.ones((8, 25), bool).at[7].set(False)
    u = u.at[7].set(jnp.nan)
    spread = lambda f: float(np.std(np.asarray(f(u, mask))[np.asarray(mask)][1:]))
    assert spread(change.peak()) < 1e-3 and spread(change.minmax) < 1e-3
    assert spread(change.winsorised(0.9)) > 0.2 and spread(change.rank) > 0.2
    for f in (change.peak(), change.minmax, change.winsorised(), change.rank):
        out = np.asarray(f(u, mask))[np.asarray(mask)]
        assert np.isfinite(out).all() and out.min() >= 0 and out.max() == 1
    order = np.argsort(np.asarray(u)[np.asarray(mask)])
    np.testing.assert_allclose(
        np.asarray(change.rank(u, mask))[np.asarray(mask)][order], np.arange(175) / 174, rtol=1e-6
    )


def test_normalisers_of_equal_sizes():
    u, mask = jnp.zeros((2, 3)), jnp.ones((2, 3), bool)
    for f, expected in (
        (change.peak(), 0.0),
        (change.minmax, 0.5),
        (change.winsorised(), 0.0),
        (change.rank, 0.0),
    ):
        np.testing.assert_array_equal(f(u, mask), expected)
    np.testing.assert_allclose(change.peak(0.02)(u + 0.01, mask), 0.5)
    np.testing.assert_allclose(change.rank(jnp.array([[0.0, 0.0, 5.0]]), mask[:1]), [[0, 0, 1]])


@pytest.mark.parametrize("make", [lambda: change.peak(-1.0), lambda: change.winsorised(0.0)])
def test_arguments_are_checked(make):
    with pytest.raises(ValueError, match="got"):
        make()
