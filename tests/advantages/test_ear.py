"""ETTRL's EAR."""

import jax.numpy as jnp
import numpy as np

from entjax.advantages import ear
from tests.advantages.situation import apply, batch, on


def row_weights(t, rollout, signal):
    ones = signal.replace(advantage=rollout.mask.astype(jnp.float32))
    return np.asarray(apply(t, rollout, ones).advantage).max(
        1, where=np.asarray(rollout.mask), initial=-np.inf
    )


def test_weights_average_to_one_in_every_group_and_favour_certainty():
    rollout, signal = batch()
    w = row_weights(ear(), rollout, signal)
    np.testing.assert_allclose([w[:4].mean(), w[4:].mean()], 1, rtol=1e-5)
    mask = np.asarray(rollout.mask)
    entropy = np.array([np.asarray(rollout.entropy)[b][mask[b]].mean() for b in range(8)])
    np.testing.assert_allclose(w[:4], 2 - entropy[:4] / entropy[:4].mean(), rtol=1e-5)
    assert (np.argsort(w[4:]) == np.argsort(-entropy[4:])).all()


def test_degenerate_groups_weigh_one():
    rollout, signal = batch()
    certain = rollout.replace(entropy=jnp.zeros_like(rollout.entropy))
    np.testing.assert_array_equal(row_weights(ear(), certain, signal), 1)
    alone = rollout.replace(group=jnp.arange(8, dtype=jnp.int32))
    np.testing.assert_allclose(row_weights(ear(), alone, signal), 1, rtol=1e-6)


def test_a_very_uncertain_row_flips_unless_a_floor_forbids_it():
    rollout, signal = batch()
    rollout = rollout.replace(entropy=jnp.where((jnp.arange(8) == 0)[:, None], 4.0, 0.5) * jnp.ones((8, 11)))
    assert row_weights(ear(), rollout, signal)[0] < 0
    assert row_weights(ear(floor=0.0), rollout, signal)[0] == 0


def test_the_clip_variant():
    rollout, signal = batch()
    out = on(rollout, apply(ear(variant="clip", beta=0.5), rollout, signal).advantage)
    np.testing.assert_allclose(out, np.clip(on(rollout, signal.advantage), -0.5, 0.5))
