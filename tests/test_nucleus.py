"""The nucleus without a sort, against sums in float64, on rows that are hard for a search."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from entjax.decoding import top_p
from entjax.nucleus import ROW, nucleus

V = 2 * ROW  # a CPU goes over such rows one at a time
RNG = np.random.default_rng(0)
ROWS = {
    "bell": RNG.normal(size=V),
    "sharp": 20 * RNG.normal(size=V),
    "zipf": -np.log(np.arange(1, V + 1)),
    "ladder": -0.7 * np.minimum(np.arange(V), 100),
    "nearly flat": 1e-3 * RNG.normal(size=V),
    "one and a flat rest": np.where(np.arange(V) == 0, np.log(V), 1e-4 * RNG.normal(size=V)),
    "a tail below rounding": np.where(np.arange(V) < 50, RNG.normal(size=V), RNG.normal(size=V) - 27),
    "forbidden": np.where(np.arange(V) % 2, -1e9, RNG.normal(size=V)),
}


@pytest.mark.parametrize("include_crossing", [True, False])
@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("p", [0.05, 0.8, 0.95, 0.999])
def test_its_mass_reaches_p_with_its_last_tokens_and_not_before(name, p, include_crossing):
    log_probs = jax.nn.log_softmax(jnp.asarray(ROWS[name], jnp.float32))
    inside = np.asarray(nucleus(log_probs[None], p, include_crossing)[0])
    levels, index = np.unique(np.asarray(log_probs), return_inverse=True)  # equal ones stand together
    mass = np.bincount(index, np.exp(np.asarray(log_probs, np.float64)))[::-1].cumsum()
    taken = int((levels >= np.min(np.asarray(log_probs)[inside], initial=np.inf)).sum())
    np.testing.assert_array_equal(
        inside, np.asarray(log_probs) >= levels[::-1][taken - 1] if taken else False
    )
    last = taken - include_crossing  # the level that reaches p
    assert mass[last] >= p - 1e-6
    assert last == 0 or mass[last - 1] < p + 1e-6


def test_a_row_is_the_same_alone_and_among_others():
    logits = np.stack(list(ROWS.values()))[:, : ROW // 8]
    log_probs = jax.nn.log_softmax(jnp.asarray(logits, jnp.float32), axis=-1)
    together = nucleus(log_probs, 0.9)
    for row, inside in zip(log_probs, together):
        np.testing.assert_array_equal(nucleus(row, 0.9), inside)


def test_equally_likely_tokens_stand_together():
    assert nucleus(jnp.log(jnp.full(10, 0.1)), 0.25).all()


@pytest.mark.parametrize("size", [8, V])
def test_ends_on_nan(size):
    broken = jnp.full((2, size), jnp.nan)
    assert not nucleus(broken, 0.9).any()
    rule = top_p(0.9)
    assert jnp.isnan(rule.update(broken, rule.init(broken), None)[0]).all()
