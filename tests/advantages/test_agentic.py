"""Agentic AEPO: entropy-aware advantage and the clip that keeps a gradient."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import entjax as ej
from entjax import surrogates
from entjax.advantages import agentic_advantage
from tests import tiny
from tests.advantages.situation import apply, batch, on


def test_factors_average_to_one_and_follow_the_entropy():
    rollout, signal = batch()
    ones = signal.replace(advantage=rollout.mask.astype(jnp.float32))
    factor = on(rollout, apply(agentic_advantage(), rollout, ones).advantage)
    entropy = on(rollout, rollout.entropy)
    np.testing.assert_allclose(factor.mean(), 1, atol=1e-6)
    np.testing.assert_allclose(factor, 1 + 0.2 * (entropy - entropy.mean()) / entropy.std(ddof=1), atol=1e-5)


def test_one_token_or_equal_entropies_change_nothing():
    rollout, signal = batch()
    single = jnp.zeros_like(rollout.mask).at[0, 5].set(True)
    out = apply(agentic_advantage(), rollout, signal.replace(mask=single))
    np.testing.assert_array_equal(out.advantage, jnp.where(single, signal.advantage, 0))
    out = apply(agentic_advantage(), rollout, signal, entropy=jnp.full_like(rollout.entropy, 0.7))
    np.testing.assert_array_equal(out.advantage, signal.advantage)


def test_floor_forbids_flipped_signs():
    rollout, signal = batch()
    before = on(rollout, signal.advantage)
    assert (before * on(rollout, apply(agentic_advantage(a=3.0), rollout, signal).advantage) < 0).any()
    assert (
        before * on(rollout, apply(agentic_advantage(a=3.0, floor=0.0), rollout, signal).advantage) >= 0
    ).all()


def test_preserve_high_has_the_value_of_the_dual_clip_and_its_own_gradient():
    ratio = np.array([0.2, 0.79, 0.81, 1.0, 1.27, 1.29, 2.9, 3.1, 50.0])
    x = jnp.asarray(np.log(np.tile(ratio, (2, 1))), jnp.float32)
    _, signal = batch()
    a = np.array([[1.5], [-0.7]])
    fill = lambda v: jnp.full(x.shape, v, jnp.float32)
    signal = signal.replace(
        advantage=jnp.asarray(np.broadcast_to(a, x.shape), jnp.float32),
        clip_low=fill(0.8),
        clip_high=fill(1.28),
    )
    surrogate = surrogates.preserve_high(3.0)
    np.testing.assert_allclose(surrogate(x, signal), surrogates.dual_clip(3.0)(x, signal), rtol=1e-6)
    slope = jax.grad(lambda x: surrogate(x, signal).sum())(x)
    f = np.stack([np.where(ratio > 1.28, 1.28, ratio), np.where((ratio < 0.8) | (ratio > 3), 0, ratio)])
    np.testing.assert_allclose(slope, f * a, rtol=1e-5)
    ppo = jax.grad(lambda x: surrogates.dual_clip(3.0)(x, signal).sum())(x)
    np.testing.assert_array_equal(np.asarray(ppo)[0] == 0, ratio > 1.28)


def test_the_gradient_reaches_the_parameters_where_ppo_has_none():
    """Through the whole loss: all ratios far above the range, all advantages positive."""
    rollout = tiny.rollout()
    rollout = rollout.replace(old_logp=rollout.old_logp - 9.0, reward=jnp.ones(8))
    graphdef, params = nnx.split(tiny.model())

    def slope(surrogate):
        objective = ej.Objective(per_token=surrogate)
        signal, _ = objective.per_step.update(ej.Signal.start(rollout), {}, ej.Context(rollout))
        loss = lambda p: (
            ej.policy_loss(objective, *ej.step.forward(graphdef, p, rollout), rollout, signal).loss
        )
        return max(float(jnp.abs(g).max()) for g in jax.tree.leaves(jax.jit(jax.grad(loss))(params)))

    assert slope(surrogates.dual_clip(3.0)) == 0
    assert slope(surrogates.preserve_high(3.0)) > 1e-3
