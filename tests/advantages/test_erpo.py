"""ERPO as reconstructed."""

import jax.numpy as jnp
import numpy as np
import pytest

from entjax.advantages import erpo
from entjax.advantages.erpo import group_zscore, position_window
from tests.advantages.situation import apply, batch, on


def situation():
    rollout, signal = batch()
    reference = rollout.old_logp + jnp.asarray(
        np.random.default_rng(4).normal(size=rollout.mask.shape), jnp.float32
    )
    return rollout.replace(extra={"ref_logp": reference}), signal


def test_against_loops():
    rollout, signal = situation()
    mask, group = np.asarray(rollout.mask), np.asarray(rollout.group)
    entropy, s = (
        np.asarray(x, np.float64) for x in (rollout.entropy, rollout.old_logp - rollout.extra["ref_logp"])
    )
    window = np.full(mask.shape, -1)
    for b in range(len(mask)):
        for i, t in enumerate(np.flatnonzero(mask[b])):
            window[b, t] = min(int(3 * (i + 1) / mask[b].sum() + 1e-9), 2)
    expected = np.asarray(signal.advantage, np.float64).copy()
    score = lambda x: (x - x.mean()) / (x.std() + 1e-6) if x.size > 1 else x * 0
    for g in np.unique(group):
        of_group = mask & (group == g)[:, None]
        gate, progress = np.zeros(mask.shape), np.zeros(mask.shape)
        gate[of_group] = 1 / (1 + np.exp(-2.0 * score(entropy[of_group])))
        for k in range(3):
            here = of_group & (window == k)
            progress[here] = score(s[here])
        expected[of_group] *= (1 + 0.7 * np.clip(gate * progress, -1, 1))[of_group]
    ours = apply(erpo(gamma=2.0, lam=0.7, buckets=3), rollout, signal).advantage
    np.testing.assert_allclose(ours, expected, atol=2e-5)


def test_lam_zero_is_the_base_method_and_no_sign_flips():
    rollout, signal = situation()
    np.testing.assert_array_equal(apply(erpo(lam=0.0), rollout, signal).advantage, signal.advantage)
    after = on(rollout, apply(erpo(lam=1.0), rollout, signal).advantage)
    assert (after * on(rollout, signal.advantage) >= 0).all()


def test_gamma_zero_opens_every_gate_by_half_whatever_the_entropy():
    rollout, signal = situation()
    a = apply(erpo(gamma=0.0), rollout, signal)
    b = apply(erpo(gamma=0.0), rollout, signal, entropy=rollout.entropy**2)
    np.testing.assert_array_equal(a.advantage, b.advantage)


def test_progress_score_ignores_affine_changes_in_a_window():
    rollout, _ = situation()
    x, window = rollout.old_logp, position_window(rollout.mask, 4)
    for k in range(4):
        here = rollout.mask & (window == k)
        a, b = (group_zscore(v, here, rollout.group, 0.0) for v in (x, 3.0 * x + 5.0 * k))
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_lam_above_one_is_refused():
    with pytest.raises(ValueError, match=r"got 1\.5"):
        erpo(lam=1.5)
