"""SAFE's controllers: a KL threshold that moves with the reward, gated by the entropy (code ryyzn9/SAFE).

    s = .9 s + .1 KL                                                  short average; long average .99 / .01 is only reported
    threshold = clip((base + PID(reward)) x phase, .1, .6)
    penalty = .1 max(s - threshold, 0)^2 max(.5, floor / (H + .1))
    phase: WARMUP 1.5 (first 50 calls), CLIMBING 1.2 (mean of the last 50 rewards > mean of the 50 before + .01),
           CONVERGED 1 (else, their std < .02 and mean > .7), PLATEAU .8
    PID: r = .95 r + .05 reward (starts at the first reward), error = rise of r - .001, its sum clipped to +-1

Constants are the shipped ones. CLIMBING cannot occur in calls 50 to 99, where "the 50 before" are the last 50 themselves.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from entjax.control import Controller

WINDOW = 50
MULTIPLIERS = (1.5, 1.2, 0.8, 1.0)  # WARMUP, CLIMBING, PLATEAU, CONVERGED
MOMENTUM = 50  # calls over which the asymmetric controller measures the rise of the KL


class SafeState(NamedTuple):
    short: Float[Array, ""]
    long: Float[Array, ""]
    rewards: Float[Array, 100]  # the last two windows, newest last
    smooth: Float[Array, ""]  # r
    error: Float[Array, ""]
    integral: Float[Array, ""]
    count: Int[Array, ""]


class SafeOutput(NamedTuple):
    """`coef` = d penalty / d KL with the smoothing left out, the coefficient of the differentiable form."""

    penalty: Float[Array, ""]
    coef: Float[Array, ""]
    threshold: Float[Array, ""]
    kl: Float[Array, ""]
    factor: Float[Array, ""]
    phase: Int[Array, ""]


def safe_controller(
    *,
    base: float = 0.3,
    floor: float = 2.0,
    gains: tuple[float, float, float] = (0.3, 0.01, 0.05),
    strength: float = 0.1,
) -> Controller:
    """update((KL, entropy, reward), state) -> (SafeOutput, state)."""
    if not base > 0 or not floor > 0 or len(gains) != 3:
        raise ValueError(
            f"SAFE needs base, floor > 0 and three gains, got base={base}, floor={floor}, gains={gains}."
        )
    kp, ki, kd = gains

    def init():
        zero = lambda: jnp.zeros((), jnp.float32)  # a buffer each: the step donates its state
        empty = jnp.zeros(2 * WINDOW, jnp.float32)
        return SafeState(zero(), zero(), empty, zero(), zero(), zero(), jnp.zeros((), jnp.int32))

    def update(measurement, state):
        divergence, entropy, reward = (jnp.asarray(x).astype(state.short.dtype) for x in measurement)
        first = state.count == 0
        short = 0.9 * state.short + 0.1 * divergence
        smooth = jnp.where(first, reward, 0.95 * state.smooth + 0.05 * reward)
        error = smooth - state.smooth - 0.001
        integral = jnp.clip(state.integral + error, -1, 1)
        moved = jnp.where(first, 0, kp * error + ki * integral + kd * (error - state.error))
        error, integral = jnp.where(first, 0, error), jnp.where(first, 0, integral)
        rewards = jnp.concatenate([state.rewards[1:], reward[None]])
        phase = _phase(rewards, state.count + 1)
        multiplier = jnp.asarray(MULTIPLIERS, short.dtype)[phase]
        threshold = jnp.clip((base + moved) * multiplier, 0.1, 0.6)
        excess = jnp.maximum(short - threshold, 0)
        factor = jnp.where(short > threshold, jnp.maximum(0.5, floor / (entropy + 0.1)), 1)
        penalty = strength * excess**2 * factor
        long = 0.99 * state.long + 0.01 * divergence
        new = SafeState(short, long, rewards, smooth, error, integral, state.count + 1)
        return SafeOutput(penalty, strength * excess * factor, threshold, short, factor, phase), new

    return Controller(init, update)


def _phase(rewards: Array, calls: Array) -> Array:
    """0 WARMUP, 1 CLIMBING, 2 PLATEAU, 3 CONVERGED, from the last 100 rewards, the current one included."""
    recent = rewards[WINDOW:]
    before = jnp.where(calls < 2 * WINDOW, recent, rewards[:WINDOW])
    climbing = recent.mean() > before.mean() + 0.01
    converged = (recent.std() < 0.02) & (recent.mean() > 0.7)
    later = jnp.where(climbing, 1, jnp.where(converged, 3, 2))
    return jnp.where(calls < WINDOW, 0, later)


class AsymmetricState(NamedTuple):
    recent: Float[Array, 49]  # the KLs of the calls before, newest last
    count: Int[Array, ""]


def asymmetric_controller(limit: float = 0.3, *, level: float = 0.1, rise: float = 5.0) -> Controller:
    """SAFE's other controller: penalty = level max(KL - limit, 0)^2 + rise max((KL_t - KL_{t-49}) / 50, 0)^2."""

    def init():
        return AsymmetricState(jnp.zeros(MOMENTUM - 1, jnp.float32), jnp.zeros((), jnp.int32))

    def update(measurement, state):
        value = jnp.asarray(measurement).astype(state.recent.dtype)
        momentum = jnp.where(state.count >= MOMENTUM - 1, (value - state.recent[0]) / MOMENTUM, 0)
        penalty = level * jnp.maximum(value - limit, 0) ** 2 + rise * jnp.maximum(momentum, 0) ** 2
        recent = jnp.concatenate([state.recent[1:], value[None]])
        return (penalty, momentum), AsymmetricState(recent, state.count + 1)

    return Controller(init, update)
