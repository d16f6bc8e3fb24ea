"""Masked and grouped reductions against NumPy on the valid entries."""

import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from entjax import masked

rng = np.random.default_rng(0)
X = rng.normal(size=(5, 8))
MASK = rng.random((5, 8)) < 0.6
WILD = np.where(MASK, X, np.where(rng.random((5, 8)) < 0.5, np.nan, np.inf))
x, m = jnp.asarray(WILD, jnp.float32), jnp.asarray(MASK)


@pytest.mark.parametrize(
    ("ours", "numpys"),
    [
        (masked.total, np.sum),
        (masked.mean, np.mean),
        (masked.minimum, np.min),
        (masked.maximum, np.max),
        (masked.std, np.std),
        (lambda x, m, axis=None: masked.var(x, m, axis, ddof=1), lambda v: np.var(v, ddof=1)),
        (lambda x, m, axis=None: masked.quantile(x, m, 0.3, axis), lambda v: np.quantile(v, 0.3)),
    ],
)
def test_reductions(ours, numpys):
    np.testing.assert_allclose(ours(x, m), numpys(X[MASK]), rtol=1e-5)
    rows = [numpys(X[i][MASK[i]]) for i in range(5)]
    np.testing.assert_allclose(ours(x, m, axis=1), rows, rtol=1e-5)


def test_empty_masks_give_finite_numbers():
    none = jnp.zeros_like(m)
    for f in (masked.total, masked.mean, masked.var, masked.minimum, masked.maximum, masked.standardize):
        assert np.isfinite(f(x, none)).all()
    assert masked.quantile(x, none, 0.5) == 0 and masked.nearest_quantile(x, none, 0.5) == 0
    np.testing.assert_array_equal(masked.softmax(x, none), 0)


def test_order():
    k = 4
    chosen = np.asarray(masked.highest(x, m, k))
    assert chosen.sum() == k and not chosen[~MASK].any()
    assert X[chosen].min() >= np.sort(X[MASK])[-k]
    np.testing.assert_array_equal(np.asarray(masked.rank(x, m))[MASK].argsort(), X[MASK].argsort())


def test_softmax_and_standardize():
    soft = np.asarray(masked.softmax(x, m))
    np.testing.assert_allclose(soft.sum(1), 1, rtol=1e-5)
    z = np.asarray(masked.standardize(x, m))[MASK]
    np.testing.assert_allclose([z.mean(), z.std()], [0, 1], atol=1e-5)


@pytest.mark.parametrize("value", [0.1, 0.7, 2.3])
def test_equal_values_have_no_spread(value):
    """A mean that rounds would make a deviation of its own, which standardize() would blow up to 1."""
    for n in (3, 5, 7, 100):
        same = jnp.full(n, value, jnp.float32)
        assert masked.var(same, same > 0, ddof=1) == 0
        np.testing.assert_array_equal(masked.standardize(same, same > 0, ddof=1), 0)
        np.testing.assert_array_equal(masked.group_mean(same, jnp.arange(n) % 2), same)


def test_groups():
    group = np.array([7, 2, 7, -1, 2, 7], np.int32)
    r = np.array([1.0, 2.0, 3.0, 100.0, 5.0, 8.0], np.float32)
    g, v = jnp.asarray(group), jnp.asarray(r)
    for i in range(6):
        mine = r[group == group[i]]
        if group[i] < 0:
            assert masked.group_mean(v, g)[i] == 0 and masked.group_count(g)[i] == 0
            continue
        np.testing.assert_allclose(masked.group_mean(v, g)[i], mine.mean(), rtol=1e-6)
        np.testing.assert_allclose(masked.group_std(v, g, ddof=1)[i], mine.std(ddof=1), rtol=1e-6)
        np.testing.assert_allclose(masked.group_quantile(v, g, 0.4)[i], np.quantile(mine, 0.4), rtol=1e-6)
        assert masked.group_max(v, g)[i] == mine.max() and masked.group_rank(v, g)[i] == (mine < r[i]).sum()


def test_integers_and_booleans_become_float32():
    assert masked.mean(m, m).dtype == jnp.float32 and masked.mean(jnp.arange(3), jnp.ones(3, bool)) == 1.0


def test_annotated_shapes_are_checked_in_tests():
    rows, ids = jnp.zeros(3), jnp.zeros(3, jnp.int32)
    assert masked.group_mean(rows, np.asarray(ids)).shape == (3,)
    for wrong in ((rows[:2], ids), (rows[:, None], ids), (rows, rows)):
        with pytest.raises(jaxtyping.TypeCheckError):
            masked.group_mean(*wrong)
