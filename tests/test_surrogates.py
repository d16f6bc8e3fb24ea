"""Surrogates: gradients in closed form, on-policy agreement, and the clamps that the golden numbers do not reach."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import entjax as ej
from entjax import surrogates

TOKENWISE = {
    "ppo_clip": surrogates.ppo_clip,
    "dual_clip": surrogates.dual_clip(10.0),
    "delta_clip": surrogates.delta_clip(),
    "unclipped": surrogates.unclipped,
    "reinforce": surrogates.reinforce,
    "cispo": surrogates.cispo,
    "sapo": surrogates.sapo(),
}


def signal(advantage, mask=None, low=0.8, high=1.2):
    """A Signal with this advantage on every valid token."""
    mask = jnp.ones(np.shape(advantage), bool) if mask is None else jnp.asarray(mask)
    a = jnp.where(mask, jnp.asarray(advantage, jnp.float32), 0)
    full = lambda x: jnp.full_like(a, x)
    return ej.Signal(
        reward=a[:, 0],
        advantage=a,
        weight=full(1.0),
        clip_low=full(low),
        clip_high=full(high),
        mask=mask,
        scale=full(1.0),
    )


def value_and_slope(surrogate, x, s):
    """Per-token values and d(sum of values)/dx."""
    x = jnp.asarray(x, jnp.float32)
    return surrogate(x, s), jax.grad(lambda x: surrogate(x, s).sum())(x)


@pytest.mark.parametrize("name", TOKENWISE)
def test_on_policy_gradient_is_the_advantage(name):
    a = np.random.default_rng(0).normal(size=(3, 5))
    _, slope = value_and_slope(TOKENWISE[name], np.zeros((3, 5)), signal(a))
    np.testing.assert_allclose(slope, a, rtol=1e-5)


def test_on_policy_gradients_of_whole_rows():
    """GSPO's is the advantage of the token, GMPO's sum over a row spreads the same total evenly."""
    a = np.random.default_rng(1).normal(size=(4, 1)) * np.ones((4, 6))
    mask = np.arange(6)[None] < np.array([[6], [3], [1], [4]])
    s = signal(a, mask)
    zeros = np.zeros((4, 6))
    _, of_gspo = value_and_slope(surrogates.gspo, zeros, s)
    np.testing.assert_allclose(of_gspo, np.where(mask, a, 0), rtol=1e-5)
    mean = jnp.where(mask, 1 / mask.sum(1, keepdims=True), 0).astype(jnp.float32)
    of_gmpo = jax.grad(lambda x: (mean * surrogates.gmpo(x, s)).sum())(jnp.zeros((4, 6)))
    np.testing.assert_allclose(of_gmpo, np.where(mask, mean * a, 0), rtol=1e-5)


def test_dual_clip_bounds_bad_tokens_from_below():
    """c = 10: at r = 15 the loss of A < 0 stays at 10 |A| without gradient; at r = 5 and for A > 0 it is PPO's."""
    x = np.log([[15.0, 5.0, 15.0, 0.5]])
    s = signal([[-2.0, -2.0, 2.0, -2.0]])
    value, slope = value_and_slope(surrogates.dual_clip(10.0), x, s)
    np.testing.assert_allclose(value[0], [-20.0, -10.0, 2.4, -1.6], rtol=1e-5)
    np.testing.assert_allclose(slope[0], [0.0, -10.0, 0.0, 0.0], rtol=1e-5)
    np.testing.assert_allclose(
        value_and_slope(surrogates.dual_clip(3.0), x, s)[0][0, :2], [-6.0, -6.0], rtol=1e-5
    )


def test_delta_clip_equals_dual_clip():
    """For A < 0 capping r at delta is a dual clip; for A > 0 PPO's own clip is tighter."""
    rng = np.random.default_rng(2)
    x, s = rng.normal(size=(5, 40)), signal(rng.normal(size=(5, 40)))
    for ours, theirs in zip(
        value_and_slope(surrogates.delta_clip(1.4), x, s),
        value_and_slope(surrogates.dual_clip(1.4), x, s),
        strict=True,
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_log_ratio_is_held_within_20():
    """PPO's ratio stops at e^20 and so does its gradient (verl); below -20 too."""
    s = signal([[-1.0, -1.0, -1.0]], low=0.0)
    value, slope = value_and_slope(surrogates.ppo_clip, [[25.0, 19.0, -25.0]], s)
    np.testing.assert_allclose(value[0], -np.exp([20.0, 19.0, -20.0]), rtol=1e-4)
    np.testing.assert_allclose(slope[0], [0.0, -np.exp(19.0), 0.0], rtol=1e-4)


@pytest.mark.parametrize("x", [-60.0, -21.0, 21.0, 60.0])
def test_cispo_never_loses_its_gradient(x):
    """The detached weight is clipped, log pi is not: beyond +-20 the slope is still clip(r) A."""
    s = signal([[-1.5, 2.0]])
    value, slope = value_and_slope(surrogates.cispo, [[x, x]], s)
    bound = 1.2 if x > 0 else 0.8
    np.testing.assert_allclose(slope[0], np.array([-1.5, 2.0]) * bound, rtol=1e-6)
    np.testing.assert_allclose(value[0], np.array([-1.5, 2.0]) * bound * x, rtol=1e-6)


def test_sapo_gradient_in_closed_form():
    """4 sigma (1 - sigma) r A, tau by the sign of A."""
    rng = np.random.default_rng(3)
    x, a = rng.normal(size=(3, 7)), rng.normal(size=(3, 7))
    _, slope = value_and_slope(surrogates.sapo(1.5, 2.5), x, signal(a))
    tau, r = np.where(a > 0, 1.5, 2.5), np.exp(x)
    sigma = 1 / (1 + np.exp(-tau * (r - 1)))
    np.testing.assert_allclose(slope, 4 * sigma * (1 - sigma) * r * a, rtol=2e-4, atol=1e-5)


def test_sequence_level_has_the_gradient_of_the_sequence_ratio():
    """Averaged over tokens, GSPO's token form has the gradient of min(s A, clip(s) A) with s = exp(mean x)."""
    rng = np.random.default_rng(4)
    mask = np.arange(6)[None] < np.array([[6], [2], [1], [4], [5]])
    a = rng.normal(size=(5, 1)).astype(np.float32) * np.ones((5, 6), np.float32)
    x, s = jnp.asarray(rng.normal(size=(5, 6)), jnp.float32), signal(a, mask)
    n = jnp.asarray(mask.sum(1), jnp.float32)

    def ours(x):
        return (jnp.where(mask, surrogates.gspo(x, s), 0).sum(1) / n).sum()

    def paper(x):
        ratio = jnp.exp(jnp.where(mask, x, 0).sum(1) / n)
        return jnp.minimum(ratio * a[:, 0], jnp.clip(ratio, 0.8, 1.2) * a[:, 0]).sum()

    np.testing.assert_allclose(ours(x), paper(x), rtol=1e-5)
    np.testing.assert_allclose(jax.grad(ours)(x), jax.grad(paper)(x), rtol=1e-4, atol=1e-6)
    assert surrogates.sees_whole_rows(surrogates.gspo)
    assert not surrogates.sees_whole_rows(surrogates.ppo_clip)


def test_sequence_ratio_stops_at_e_10():
    value, slope = value_and_slope(surrogates.gspo, np.full((1, 3), 12.0), signal([[-1.0] * 3]))
    np.testing.assert_allclose(value, -np.exp(10.0), rtol=1e-5)
    np.testing.assert_array_equal(slope, 0)


def test_gmpo_in_numpy():
    rng = np.random.default_rng(5)
    mask = np.arange(6)[None] < np.array([[6], [2], [1]])
    a = np.sign(rng.normal(size=(3, 1))) * np.array([[1.0], [2.0], [3.0]]) * mask
    x = rng.normal(size=(3, 6))
    s = signal(a, mask, np.exp(-0.4), np.exp(0.4))
    worse = np.where(a > 0, np.minimum(x, np.clip(x, -0.4, 0.4)), np.maximum(x, np.clip(x, -0.4, 0.4)))
    n = mask.sum(1, keepdims=True)
    expected = (a.sum(1, keepdims=True) / n) * np.exp((worse * mask).sum(1, keepdims=True) / n)
    value, _ = value_and_slope(surrogates.gmpo, np.where(mask, x, 0), s)
    np.testing.assert_allclose(value, np.broadcast_to(expected, (3, 6)), rtol=1e-5)


@pytest.mark.parametrize("sign,k,lam", [(1.0, 2.0, 3.0), (-1.0, 3.0, 2.0)])
def test_vespo_clamps(sign, k, lam):
    """log w is at least log 1e-8 and at most 20, and each token's log-ratio counts for at most 20."""
    phi = lambda log_w: np.exp(lam + k * log_w - lam * np.exp(log_w))
    s = signal(np.full((4, 2), sign))
    x = np.array([[-15.0, -15.0], [-3.0, -3.0], [25.0, -20.5], [15.0, 15.0]])
    log_w = np.array([np.log(1e-8), -6.0, 0.0, 20.0])
    value, slope = value_and_slope(surrogates.vespo, x, s)
    expected = np.broadcast_to(sign * phi(log_w)[:, None], (4, 2))
    np.testing.assert_allclose(slope, expected, rtol=1e-4)
    np.testing.assert_allclose(value, expected * x, rtol=1e-4)
    assert expected[3, 0] == 0 and expected[2, 0] == pytest.approx(sign)


@pytest.mark.parametrize(
    "factory,arguments",
    [
        (surrogates.dual_clip, {"c": 1.0}),
        (surrogates.delta_clip, {"delta": 0.9}),
        (surrogates.sapo, {"positive": 0.0}),
    ],
)
def test_arguments_are_checked(factory, arguments):
    with pytest.raises(ValueError, match=str(next(iter(arguments.values())))):
        factory(**arguments)
