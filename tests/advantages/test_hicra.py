"""HICRA: planning tokens, given or found."""

import numpy as np

from entjax.advantages import hicra
from entjax.analysis.strategic_grams import pack
from tests.advantages.situation import apply, batch, on


def test_signs_and_totals():
    rollout, signal = batch(planning=np.random.default_rng(0).random((8, 11)) < 0.4)
    before, planning = on(rollout, signal.advantage), on(rollout, rollout.extra["planning"]) > 0
    for alpha in (0.2, 1.0):
        after = on(rollout, apply(hicra(alpha=alpha), rollout, signal).advantage)
        np.testing.assert_array_equal(after[~planning], before[~planning])
        scale = np.where(before > 0, 1 + alpha, 1 - alpha)
        np.testing.assert_allclose(after[planning], (scale * before)[planning], atol=1e-6)
        assert after.sum() > before.sum()
    np.testing.assert_array_equal(apply(hicra(alpha=0.0), rollout, signal).advantage, signal.advantage)


def test_grams_found_in_the_step_equal_a_mask_made_beforehand():
    rollout, signal = batch()
    tokens, mask = np.asarray(rollout.tokens), np.asarray(rollout.mask)
    grams = [(int(tokens[0, 4]), int(tokens[0, 5])), (3,)]
    planning = np.zeros(mask.shape, bool)
    for b, t in np.ndindex(*mask.shape):
        for gram in grams:
            end = t + len(gram)
            if end <= mask.shape[1] and mask[b, t:end].all() and tuple(tokens[b, t:end]) == gram:
                planning[b, t:end] = True
    assert planning[0, 4:6].all() and planning.sum() > 2
    given = rollout.replace(extra={"planning": planning})
    a = apply(hicra(grams=pack(grams)), rollout, signal).advantage
    np.testing.assert_array_equal(a, apply(hicra(), given, signal).advantage)
