"""Divergence-weighted advantages."""

import jax.numpy as jnp
import numpy as np

from entjax.advantages import divergence_weights
from tests.advantages.situation import apply, batch, on


def weights(t, logp, **extra):
    rollout, signal = batch()
    rollout = rollout.replace(extra=extra)
    ones = signal.replace(advantage=rollout.mask.astype(jnp.float32))
    return rollout, on(rollout, apply(t, rollout, ones, logp=logp).advantage)


def drifted():
    rollout, _ = batch()
    return rollout.old_logp + jnp.asarray(np.random.default_rng(2).normal(size=(8, 11)), jnp.float32)


def test_identity_on_policy_and_for_s_zero():
    rollout, _ = batch()
    np.testing.assert_allclose(weights(divergence_weights(), rollout.old_logp)[1], 1)
    np.testing.assert_array_equal(weights(divergence_weights(s=0.0), drifted())[1], 1)


def test_weights_lie_in_their_band_and_are_monotone_in_the_divergence():
    for alpha, sign in ((5.0, 1), (-5.0, -1)):
        rollout, w = weights(divergence_weights(s=0.8, alpha=alpha), drifted())
        x = on(rollout, drifted()) - on(rollout, rollout.old_logp)
        kl = np.exp(x) - 1 - x
        assert (w > 0.6 - 1e-6).all() and (w < 1.4 + 1e-6).all()
        assert (sign * np.diff(w[np.argsort(kl)]) >= -1e-6).all() and np.ptp(w) > 0.1
        np.testing.assert_allclose(w, 1 + 0.8 * (1 / (1 + np.exp(-alpha * kl)) - 0.5), atol=1e-5)


def test_against_a_reference_the_other_ratio_counts():
    rollout, _ = batch()
    t = divergence_weights(against="reference")
    _, w = weights(t, drifted(), ref_logp=rollout.old_logp)
    x = on(rollout, rollout.old_logp) - on(rollout, drifted())
    np.testing.assert_allclose(w, 1 + 1 / (1 + np.exp(-5 * (np.exp(x) - 1 - x))) - 0.5, atol=1e-5)
