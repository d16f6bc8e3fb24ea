"""Importance weights and rejection masks between sampler and trainer, and GMPO's geometric mean of weights."""

import jax.numpy as jnp
import numpy as np
import pytest

import entjax as ej
from tests.weights.situation import apply, batch, valid


def gap(d, seed=0):
    """A batch in which log p_trainer - log p_sampler is d [8, 11]."""
    case = batch(seed)
    d = jnp.broadcast_to(jnp.asarray(d, jnp.float32), case[0].mask.shape)
    return (case[0].replace(logp=case[0].old_logp - d), *case[1:])


def noisy(scale=0.5):
    d = scale * np.random.default_rng(2).normal(size=(8, 11))
    return d, gap(d)


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("normalize", [False, True])
def test_equal_log_probs_weigh_one(level, normalize):
    out = apply(ej.weights.importance(level, normalize=normalize), gap(0.0))
    np.testing.assert_allclose(out.weight, 1.0, rtol=1e-6)


def test_token_weights_are_truncated_above_only():
    d, case = noisy(1.0)
    w = valid(case, apply(ej.weights.importance(threshold=1.5), case).weight)
    np.testing.assert_allclose(w, np.minimum(np.exp(valid(case, d)), 1.5), rtol=1e-4)
    assert w.min() < 0.5


def test_sequence_weights():
    d, case = noisy(0.8)
    mask = np.asarray(case[0].mask)
    total = np.exp(np.where(mask, d, 0).sum(1, keepdims=True))
    w = np.asarray(apply(ej.weights.importance("sequence", threshold=2.0), case).weight)
    np.testing.assert_allclose(np.where(mask, w, 0), np.where(mask, np.minimum(total, 2.0), 0), rtol=1e-4)
    w = np.asarray(apply(ej.weights.importance("sequence", above="zero", threshold=2.0), case).weight)
    np.testing.assert_allclose(np.where(mask, w, 0), np.where(mask & (total <= 2), total, 0), rtol=1e-4)
    assert (total > 2).any() and (total < 1).any()


def test_normalised_weights_have_mean_one():
    """Over tokens, or over sequences that all count the same."""
    _, case = noisy()
    token = valid(case, apply(ej.weights.importance(normalize=True), case).weight)
    np.testing.assert_allclose(token.mean(), 1.0, rtol=1e-5)
    rows = np.asarray(apply(ej.weights.importance("sequence", normalize=True), case).weight)[:, 2]
    np.testing.assert_allclose(rows.mean(), 1.0, rtol=1e-5)


def test_a_sequence_weighs_the_same_whatever_was_rejected_before():
    _, case = noisy(0.3)
    alone = apply(ej.weights.importance("sequence", threshold=1e9), case)
    few = jnp.asarray(np.random.default_rng(3).random((8, 11)) < 0.5) & case[0].mask
    some = apply(
        ej.weights.importance("sequence", threshold=1e9), (case[0], case[1].replace(mask=few), *case[2:])
    )
    np.testing.assert_allclose(some.weight[few], alone.weight[few], rtol=1e-6)


def test_a_huge_mismatch_stays_finite():
    out = apply(ej.weights.importance("sequence", threshold=1e9), gap(1e6))
    np.testing.assert_allclose(valid(gap(0.0), out.weight), np.exp(20.0), rtol=1e-4)


def test_geometric_mean():
    case = batch()
    w = np.random.default_rng(0).uniform(0.2, 2.0, case[0].mask.shape).astype(np.float32)
    out = apply(ej.weights.geometric_mean(), (case[0], case[1].replace(weight=jnp.asarray(w)), case[2]))
    for row, mask in enumerate(np.asarray(case[0].mask)):
        np.testing.assert_allclose(
            np.asarray(out.weight)[row][mask], np.exp(np.log(w[row][mask]).mean()), rtol=1e-5
        )


K = {"k1": lambda d: -d, "k2": lambda d: d**2 / 2, "k3": lambda d: np.exp(d) - d - 1}


@pytest.mark.parametrize("level", ["token", "sequence_sum", "sequence_mean", "sequence_max"])
@pytest.mark.parametrize("statistic", ["k1", "k2", "k3"])
def test_rejection_in_numpy(statistic, level):
    if (statistic, level) == ("k1", "sequence_max"):
        pytest.skip("refused at construction")
    d, case = noisy(0.2)
    mask = np.asarray(case[0].mask)
    k = np.where(mask, K[statistic](d), 0)
    n = mask.sum(1, keepdims=True)
    statistics = {
        "token": k,
        "sequence_sum": k.sum(1, keepdims=True),
        "sequence_mean": k.sum(1, keepdims=True) / n,
        "sequence_max": np.where(mask, k, -np.inf).max(1, keepdims=True),
    }
    s = np.broadcast_to(statistics[level], mask.shape)
    low, high = np.quantile(s[:, 2], [0.2, 0.6])
    low, high = low - 1e-4, high + 1e-4  # no value lies on a bound
    kept = (s >= low) & (s <= high) if statistic == "k1" else s <= high
    bounds = {"low": np.exp(low), "high": np.exp(high)} if statistic == "k1" else {"high": high}
    out = apply(ej.weights.reject_mismatch(statistic, level, **bounds), case)
    np.testing.assert_array_equal(out.mask, mask & kept)
    assert kept[mask].any() and not kept[mask].all()


def test_bounds_are_inclusive_and_reciprocal():
    """k1 bounds p_sampler / p_trainer: a token that the sampler found twice as likely is at 2."""
    case = gap(-np.log(2.0))
    keep = lambda low, high: apply(ej.weights.reject_mismatch("k1", "token", low=low, high=high), case).mask
    assert valid(case, keep(0.5, 2.0001)).all()
    assert not valid(case, keep(0.5, 1.999)).any()
    still = gap(0.0)
    assert valid(still, apply(ej.weights.reject_mismatch("k1", "token", low=0.5, high=1.0), still).mask).all()


def test_two_masks_judge_the_same_tokens():
    """The second rejection's sequence mean is over all sampled tokens, not over what the first has left."""
    _, case = noisy(0.2)
    first = ej.weights.reject_mismatch("k1", "token", low=0.9, high=1.1)
    second = ej.weights.reject_mismatch("k3", high=0.02)
    both = apply(ej.chain(first, ej.rename("second", second)), case).mask
    alone = apply(first, case).mask & apply(second, case).mask
    np.testing.assert_array_equal(both, alone)


@pytest.mark.parametrize(
    "make,value",
    [
        (lambda: ej.weights.importance("group"), "group"),
        (lambda: ej.weights.importance(threshold=0.0), "0.0"),
        (lambda: ej.weights.importance(above="drop"), "drop"),
        (lambda: ej.weights.reject_mismatch("k4", high=1.0), "k4"),
        (lambda: ej.weights.reject_mismatch("k1", high=1.0), "k1"),
        (lambda: ej.weights.reject_mismatch("k3", low=0.1, high=1.0), "0.1"),
        (lambda: ej.weights.reject_mismatch("k1", low=2.0, high=1.0), "2.0"),
        (lambda: ej.weights.reject_mismatch("k1", "sequence_max", low=0.5, high=1.0), "maximum of k1"),
    ],
)
def test_arguments_are_checked(make, value):
    with pytest.raises(ValueError, match=value):
        make()
