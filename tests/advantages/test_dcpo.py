"""DCPO: virtual tempered samples steer the entropy."""

import jax.numpy as jnp
import numpy as np
import pytest

import entjax as ej
from entjax.advantages import dcpo
from entjax.features import tempered_logp
from entjax.vocab import Row
from tests.advantages.situation import apply, batch, on


def situation(seed=0):
    rollout, signal = batch(seed)
    rng = np.random.default_rng(seed)
    shift = lambda: rollout.old_logp + jnp.asarray(0.3 * rng.normal(size=(8, 11)), jnp.float32)
    return rollout.replace(extra={"tempered_logp_1.2": shift(), "tempered_logp_0.8": shift()}), signal


@pytest.mark.parametrize("target, name", [(5.0, "tempered_logp_1.2"), (0.0, "tempered_logp_0.8")])
def test_against_numpy(target, name):
    rollout, signal = situation()
    out = apply(dcpo(target=target), rollout, signal)
    nll = -on(rollout, rollout.old_logp).mean()
    ok = np.asarray(rollout.reward) > 0.05
    assert 0 < ok.sum() < 8
    beta = min(abs(target - nll), 0.1) / ok.mean()
    alpha = beta / (1 + beta)
    rho = np.exp(np.asarray(rollout.extra[name], np.float64) - np.asarray(rollout.old_logp))
    expected = (1 - alpha) * np.asarray(signal.advantage) + alpha * ok[:, None] * rho
    np.testing.assert_allclose(on(rollout, out.advantage), on(rollout, expected), atol=1e-5)
    np.testing.assert_allclose(out.metrics["dcpo/measured"], nll, rtol=1e-5)


def test_on_target_or_without_a_correct_row_it_is_grpo():
    rollout, signal = situation()
    wrong = rollout.replace(reward=jnp.zeros(8))
    np.testing.assert_array_equal(apply(dcpo(), wrong, signal).advantage, signal.advantage)
    level = rollout.replace(entropy=jnp.full((8, 11), 0.5))
    np.testing.assert_array_equal(apply(dcpo(measure="shannon"), level, signal).advantage, signal.advantage)
    assert 0 < float(apply(dcpo(measure="shannon"), rollout, signal).metrics["dcpo/alpha"]) < 1


def test_temperature_one_gives_ratio_one():
    rollout, signal = situation()
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(5, 7)), jnp.float32)
    row = Row(logits, jnp.arange(5) % 7)
    np.testing.assert_allclose(tempered_logp(1.0)(row), ej.vocab.logp(row), rtol=1e-6)
    same = rollout.replace(extra={"tempered_logp_1.0": rollout.old_logp})
    out = apply(dcpo(hot=1.0, cold=1.0, target=9.0), same, signal)
    alpha, ok = float(out.metrics["dcpo/alpha"]), np.asarray(rollout.reward)[:, None] > 0.05
    expected = (1 - alpha) * np.asarray(signal.advantage) + alpha * ok
    np.testing.assert_allclose(on(rollout, out.advantage), on(rollout, expected), atol=1e-6)


def test_heat_favours_unlikely_tokens():
    logits = jnp.asarray([0.0, 2.0, 4.0])
    row = Row(jnp.tile(logits, (3, 1)), jnp.arange(3))
    log_rho = np.asarray(tempered_logp(1.2)(row) - ej.vocab.logp(row))
    assert log_rho[0] > 0 > log_rho[2] and (np.diff(log_rho) < 0).all()
    assert tempered_logp(1.2) is tempered_logp(1.2)


def test_one_controller_of_the_entropy():
    with pytest.raises(ValueError, match="both own 'entropy'"):
        ej.Objective(dcpo(), ej.regularizers.entropy(coef=ej.control.pi(target=0.5, kp=0.1, ki=0.01)))
