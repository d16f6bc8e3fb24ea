"""Explore: perplexity weights of rows, position bonus of tokens."""

import jax.numpy as jnp
import numpy as np

import entjax as ej
from entjax.advantages import explore_perplexity, explore_position
from entjax.advantages.explore_perplexity import perplexity_scores
from tests.advantages.situation import apply, batch, on


def test_scores_leave_outliers_out_of_the_mean_but_score_them():
    rollout, _ = batch()
    old_logp = -jnp.asarray([1.0, 1.1, 1.2, 9.0, 0.5, 0.5, 0.5, 0.5])[:, None] * jnp.ones((8, 11))
    lp, w, inside = (np.asarray(x) for x in perplexity_scores(old_logp, rollout.mask, rollout.group))
    np.testing.assert_allclose(lp[:4], [1.0, 1.1, 1.2, 9.0], rtol=1e-5)
    np.testing.assert_array_equal(inside, [1, 1, 1, 0, 1, 1, 1, 1])
    np.testing.assert_allclose(w[:3].mean(), 0, atol=1e-5)
    np.testing.assert_allclose(w[3], (9.0 - 1.1) / np.std([1.0, 1.1, 1.2]), rtol=1e-4)
    np.testing.assert_allclose(w[4:], 0, atol=1e-5)


def test_a_group_of_one_and_a_row_without_tokens_keep_their_advantage():
    rollout, signal = batch()
    rollout = rollout.replace(group=jnp.arange(8, dtype=jnp.int32))
    out = apply(explore_perplexity(alpha=0.5), rollout, signal)
    np.testing.assert_array_equal(out.advantage, signal.advantage)
    rollout, signal = batch()
    emptied = rollout.mask & (jnp.arange(8) != 2)[:, None]
    w = perplexity_scores(rollout.old_logp, emptied, rollout.group)[1]
    others = jnp.where(jnp.arange(8) == 2, -1, rollout.group)
    np.testing.assert_allclose(w, perplexity_scores(rollout.old_logp, rollout.mask, others)[1], atol=1e-6)


def test_low_and_high_are_mirrored_and_bounded():
    rollout, signal = batch()
    low = on(rollout, apply(explore_perplexity(alpha=0.1), rollout, signal).advantage)
    high = on(rollout, apply(explore_perplexity(alpha=0.1, favour="high"), rollout, signal).advantage)
    before = on(rollout, signal.advantage)
    np.testing.assert_allclose(low / before + high / before, 2, rtol=1e-4)
    strong = on(rollout, apply(explore_perplexity(alpha=50.0), rollout, signal).advantage) / before
    assert strong.min() >= 0.8 - 1e-5 and strong.max() <= 1.2 + 1e-5 and strong.std() > 0.1
    np.testing.assert_array_equal(
        apply(explore_perplexity(alpha=0.0), rollout, signal).advantage, signal.advantage
    )


def test_position_bonus_is_capped_keeps_signs_and_is_half_in_the_middle():
    rollout, signal = batch()
    before = on(rollout, signal.advantage)
    for alpha in (0.1, 5.0):
        after = on(rollout, apply(explore_position(alpha=alpha), rollout, signal).advantage)
        assert (np.abs(after - before) <= 0.5 * np.abs(before) + 1e-6).all() and (after * before >= 0).all()
    mask = jnp.ones((8, 10), bool)
    wide = rollout.replace(mask=mask, tokens=rollout.tokens[:, :10])
    big = signal.replace(mask=mask, advantage=jnp.full((8, 10), -4.0))
    bonus = np.asarray(apply(explore_position(), wide, big).advantage) + 4
    np.testing.assert_allclose(bonus[:, 5], -0.05, rtol=1e-5)
    assert (np.diff(-bonus[0]) > 0).all(), "late tokens count more"
    np.testing.assert_array_equal(
        apply(explore_position(alpha=0.0), rollout, signal).advantage, signal.advantage
    )


def test_only_during_the_authors_steps():
    rollout, signal = batch()
    t = ej.during(201, 300, explore_position())
    changed = []
    for step in (200, 201, 299, 300):
        out, _ = t.update(signal, (), ej.Context(rollout, step=step, name="explore_position"))
        changed.append(not np.array_equal(out.advantage, signal.advantage))
    assert changed == [False, True, True, False]
