"""HAPO: normalised entropy, redistribution, token-level average, adaptive clip, adaptive temperature."""

import jax.numpy as jnp
import numpy as np
import pytest

import entjax as ej
from entjax.advantages import group_normalize, hapo_average, hapo_redistribution, hapo_statistics
from entjax.advantages.hapo import normalized_entropy
from entjax.decoding.hapo_temperature import hapo_temperature
from tests.advantages.situation import apply, batch, on


def test_the_fixed_sign_puts_certain_tokens_below_zero():
    rollout, _ = batch()
    h = on(rollout, normalized_entropy(rollout.entropy, rollout.mask)[0])
    entropy = on(rollout, rollout.entropy)
    assert h.max() == 1 and h.min() == -1 and h[entropy.argmax()] == 1 and h[entropy.argmin()] == -1
    assert (np.diff(h[np.argsort(entropy)]) >= 0).all(), "h rises with the entropy"
    n = len(h)
    assert abs((h > 0).sum() - 0.2 * (n - 1)) <= 1 and (h == 0).sum() == 1
    released = on(rollout, normalized_entropy(rollout.entropy, rollout.mask, sign_fix=False)[0])
    np.testing.assert_allclose(released, np.abs(h))


def test_switched_off_it_is_plain_ppo():
    rollout, signal = batch()
    clipped = apply(ej.clips.hapo(alpha=0.0), rollout, signal)
    np.testing.assert_allclose(clipped.clip_low, 0.8)
    np.testing.assert_allclose(clipped.clip_high, 1.2)
    np.testing.assert_array_equal(
        apply(hapo_redistribution(beta=0.0), rollout, signal).advantage, signal.advantage
    )


@pytest.mark.parametrize("sign_fix", [True, False])
def test_clip_and_redistribution_against_loops(sign_fix):
    rollout, signal = batch()
    logp = rollout.old_logp + 0.2 * jnp.asarray(
        np.random.default_rng(1).normal(size=rollout.mask.shape), jnp.float32
    )
    signal = apply(ej.clips.hapo(alpha=0.7, sign_fix=sign_fix), rollout, signal)
    after = apply(hapo_redistribution(beta=0.6, sign_fix=sign_fix), rollout, signal, logp=logp)
    h = np.asarray(normalized_entropy(rollout.entropy, rollout.mask, sign_fix=sign_fix)[0], np.float64)
    seen = set()
    for b, t in np.argwhere(np.asarray(rollout.mask)):
        low, high = 0.2 * (1 - 0.7 * min(h[b, t], 0)), 0.2 * (1 + 0.7 * max(h[b, t], 0))
        np.testing.assert_allclose(
            [after.clip_low[b, t], after.clip_high[b, t]], [1 - low, 1 + high], rtol=1e-6
        )
        ratio = np.exp(float(logp[b, t]) - float(rollout.old_logp[b, t]))
        inside = 1 - low / 2 < ratio < 1 + high / 2
        changed = inside if h[b, t] <= 0 else not inside
        seen.add((inside, h[b, t] <= 0))
        expected = float(signal.advantage[b, t]) * (1 + 0.6 * h[b, t] * changed)
        np.testing.assert_allclose(after.advantage[b, t], expected, rtol=1e-5)
    assert len(seen) == (4 if sign_fix else len(seen))


def test_equal_lengths_make_the_token_average_grpo_with_divisor_n():
    rollout, signal = batch()
    rollout = rollout.replace(mask=jnp.asarray(np.arange(11)[None] >= 2) & jnp.ones((8, 1), bool))
    reward = np.random.default_rng(0).normal(size=8)
    signal = signal.replace(mask=rollout.mask, reward=jnp.asarray(reward, jnp.float32))
    ours = np.asarray(apply(hapo_average(), rollout, signal).advantage)[:, 5]
    for g in range(2):
        group = reward[4 * g : 4 * g + 4]
        np.testing.assert_allclose(
            ours[4 * g : 4 * g + 4], (group - group.mean()) / (group.std() + 1e-6), rtol=1e-5
        )


@pytest.mark.parametrize("std", [True, False])
def test_extreme_groups_fall_back_to_grpo(std):
    rollout, signal = batch()
    mask = np.zeros((8, 11), bool)
    mask[:3, :], mask[3, 0], mask[4:, :6] = True, True, True
    reward = jnp.asarray([20, 20, 20, 0, 1, 0, 1, 0], jnp.float32)
    rollout = rollout.replace(mask=jnp.asarray(mask), reward=reward)
    signal = ej.Signal.start(rollout)
    ours = np.asarray(apply(hapo_average(std=std), rollout, signal).advantage)
    grpo = np.asarray(apply(group_normalize(std=std), rollout, signal).advantage)
    np.testing.assert_allclose(ours[:4], grpo[:4], atol=1e-5)
    expected = np.array([1, -1, 1, -1]) * (1.0 if std else 0.5)
    np.testing.assert_allclose(ours[4:, 0], expected, rtol=1e-5)
    calm = np.asarray(apply(hapo_average(std=std, fallback=100.0), rollout, signal).advantage)[:4, 0]
    mu = 20 * 33 / 34
    spread = np.sqrt((33 * (20 - mu) ** 2 + mu**2) / 34) if std else 1.0
    np.testing.assert_allclose(calm, (np.array([20, 20, 20, 0]) - mu) / spread, rtol=1e-4)


def test_only_the_released_average_looks_at_padding():
    rollout, signal = batch()
    signal = signal.replace(reward=jnp.linspace(6.0, 7.0, 8))
    paper = apply(hapo_average(std=False), rollout, signal)
    released = apply(hapo_average(std=False, variant="released"), rollout, signal)
    assert float(paper.metrics["hapo_average/fallback"]) == 0
    assert float(released.metrics["hapo_average/fallback"]) == 1


def test_equal_rewards_give_exact_zeros_and_a_single_row_none():
    rollout, signal = batch()
    same = signal.replace(reward=jnp.full((8,), 0.1))
    assert not np.asarray(apply(hapo_average(), rollout, same).advantage).any()
    alone = rollout.replace(group=jnp.arange(8, dtype=jnp.int32))
    assert not np.asarray(apply(hapo_average(), alone, signal).advantage).any()


def test_temperature_lies_in_its_band_follows_entropy_and_has_a_floor():
    rollout, signal = batch()
    knobs = apply(hapo_statistics(), rollout, signal).knobs
    given = {name: knobs[f"hapo_{name}"] for name in ("pivot", "spread", "up", "down")}
    entropy = jnp.asarray([0.0, 1e-7, 1e-6, 0.01, 0.5, 1.5, 5.0])
    hot = np.asarray(hapo_temperature(entropy, tau=0.1, base=2.0, **given))
    assert (np.diff(hot) >= -1e-6).all() and hot.min() >= 1.8 - 1e-6 and hot.max() <= 2.2 + 1e-6
    np.testing.assert_array_equal(hot[:3], hot[0])
    pivot = np.exp(float(given["pivot"]))
    np.testing.assert_allclose(hapo_temperature(jnp.asarray(pivot, jnp.float32), **given), 1.0, atol=1e-6)
    released = np.asarray(hapo_temperature(entropy, sign_fix=False, **given))
    assert released[0] > 1, "the released sign heats certain tokens, too"
