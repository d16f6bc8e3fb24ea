"""Averages: what they sum to, who weighs what, and when they agree."""

import jax.numpy as jnp
import numpy as np
import pytest

import entjax as ej
from tests import tiny
from tests.golden.compose import decide

MEANS = {
    "token_mean": ej.averages.token_mean(),
    "first_tokens": ej.averages.first_tokens(3),
    "sequence_mean_token_mean": ej.averages.sequence_mean_token_mean(),
    "sequence_mean_token_sum": ej.averages.sequence_mean_token_sum(),
    "constant_length": ej.averages.constant_length(20),
    "constant_length_sum": ej.averages.constant_length(20, over_sequences=False),
}


def scale(average, lengths, width=6):
    mask = jnp.arange(width)[None] < jnp.asarray(lengths)[:, None]
    rollout = tiny.rollout(batch=len(lengths), length=width, groups=(len(lengths),)).replace(mask=mask)
    return np.asarray(decide(average, ej.Signal.start(rollout), rollout, {}).scale)


@pytest.mark.parametrize("name", MEANS)
def test_weights_by_hand(name):
    """Rows of 4, 0 and 1 tokens: the empty one counts nowhere."""
    out = scale(MEANS[name], [4, 0, 1])
    long, short = {
        "token_mean": (1 / 5, 1 / 5),
        "first_tokens": (1 / 4, 1 / 4),
        "sequence_mean_token_mean": (1 / 8, 1 / 2),
        "sequence_mean_token_sum": (1 / 2, 1 / 2),
        "constant_length": (1 / 40, 1 / 40),
        "constant_length_sum": (1 / 20, 1 / 20),
    }[name]
    expected = np.zeros((3, 6))
    expected[0, : 3 if name == "first_tokens" else 4], expected[2, 0] = long, short
    np.testing.assert_allclose(out, expected, rtol=1e-6)


def test_all_agree_on_equal_lengths():
    """Up to the constant that each mode divides by: T valid tokens a row, B rows."""
    base = scale(MEANS["token_mean"], [5, 5, 5])
    np.testing.assert_allclose(scale(MEANS["sequence_mean_token_mean"], [5, 5, 5]), base, rtol=1e-6)
    np.testing.assert_allclose(scale(MEANS["sequence_mean_token_sum"], [5, 5, 5]), base * 5, rtol=1e-6)
    np.testing.assert_allclose(scale(MEANS["constant_length"], [5, 5, 5]), base * 5 / 20, rtol=1e-6)
    np.testing.assert_allclose(scale(MEANS["constant_length_sum"], [5, 5, 5]), base * 15 / 20, rtol=1e-6)


@pytest.mark.parametrize("name", MEANS)
def test_an_empty_batch_is_zero(name):
    np.testing.assert_array_equal(scale(MEANS[name], [0, 0]), 0)


def test_fixed_denominators():
    """The denominator of a larger batch: two halves add up to the whole."""
    lengths = [4, 1, 3, 2]
    for make, whole in (
        (ej.averages.token_mean, {"tokens": 10}),
        (ej.averages.sequence_mean_token_mean, {"sequences": 4}),
        (ej.averages.sequence_mean_token_sum, {"sequences": 4}),
    ):
        halves = [scale(make(**whole), half) for half in (lengths[:2], lengths[2:])]
        np.testing.assert_allclose(np.concatenate(halves), scale(make(), lengths), rtol=1e-6)


def test_luspo_is_gspo_summed_over_tokens():
    """mean_b n_b min(s_b A_b, clip(s_b) A_b): length times the sequence loss."""
    rng = np.random.default_rng(0)
    lengths = np.array([6, 2, 1])
    mask = np.arange(6)[None] < lengths[:, None]
    rollout = tiny.rollout(batch=3, length=6, groups=(3,)).replace(mask=jnp.asarray(mask))
    a = rng.normal(size=(3, 1)).astype(np.float32) * np.ones((3, 6), np.float32)
    x = rng.normal(size=(3, 6)).astype(np.float32) * mask
    whole = ej.chain(ej.clips.asymmetric(0.05, 0.08), MEANS["sequence_mean_token_sum"])
    signal = decide(whole, ej.Signal.start(rollout).replace(advantage=jnp.asarray(a)), rollout, {})
    ours = (signal.scale * ej.surrogates.gspo(jnp.asarray(x), signal)).sum()
    s = np.exp(x.sum(1) / lengths)
    sequence = np.minimum(s * a[:, 0], np.clip(s, 0.95, 1.08) * a[:, 0])
    np.testing.assert_allclose(ours, (lengths * sequence).mean(), rtol=1e-5)


@pytest.mark.parametrize(
    "make",
    [
        lambda: ej.averages.token_mean(tokens=0),
        lambda: ej.averages.sequence_mean_token_sum(sequences=-1),
        lambda: ej.averages.constant_length(0),
    ],
)
def test_arguments_are_checked(make):
    with pytest.raises(ValueError, match="got"):
        make()


def test_two_averages_in_one_chain_are_refused():
    with pytest.raises(ValueError, match="both own 'scale'"):
        ej.chain(MEANS["token_mean"], MEANS["constant_length"])
