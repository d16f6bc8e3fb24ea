"""Controllers: one interface, measurement -> value, for everything that changes during a run.

    init() -> state                      update(measurement, state) -> (value, state)

The same controller drives an entropy coefficient, a clip width or a temperature. State is a pytree that lives in the
checkpoint. Every bounded controller recovers from its bounds: an integral never grows beyond what the output can use.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

Target = float | Callable[[Any], Any]


class Controller(NamedTuple):
    init: Callable[[], Any]
    update: Callable[[Any, Any], tuple[Any, Any]]


class Count(NamedTuple):
    """How often a schedule was asked."""

    count: Int[Array, ""]


class PIDState(NamedTuple):
    integral: Float[Array, ""]
    previous: Float[Array, ""]  # the last error
    count: Int[Array, ""]


class Level(NamedTuple):
    """The value that a step-by-step controller has reached, and how often it was asked."""

    value: Float[Array, ""]
    count: Int[Array, ""]


def _zero() -> Array:
    return jnp.zeros((), jnp.float32)


def _at(target: Target, count: Array) -> Array:
    value = target(count) if callable(target) else target
    return jnp.asarray(value, jnp.float32)


def as_controller(value: float | Callable | Controller) -> Controller:
    """A number becomes a constant, a function of the step a schedule, a Controller stays."""
    if isinstance(value, Controller):
        return value
    return schedule(value) if callable(value) else constant(value)


def constant(value: float) -> Controller:
    """Always `value`, whatever is measured."""
    return Controller(lambda: (), lambda measurement, state: (jnp.asarray(value, jnp.float32), state))


def schedule(f: Callable[[Any], Any]) -> Controller:
    """f(step), e.g. any optax schedule; the step is counted in the state."""

    def update(measurement, state):
        return jnp.asarray(f(state.count), jnp.float32), Count(state.count + 1)

    return Controller(lambda: Count(jnp.zeros((), jnp.int32)), update)


def linear(start: float, end: float, steps: int) -> Callable:
    """start + (end - start) * step / steps, constant afterwards."""
    _positive("steps", steps)
    return lambda step: start + (end - start) * jnp.minimum(jnp.asarray(step, jnp.float32) / steps, 1.0)


def cosine(start: float, end: float, steps: int) -> Callable:
    """start + (end - start) * (1 - cos(pi step / steps)) / 2, constant afterwards."""
    _positive("steps", steps)

    def at(step):
        progress = jnp.minimum(jnp.asarray(step, jnp.float32) / steps, 1.0)
        return start + (end - start) * 0.5 * (1.0 - jnp.cos(jnp.pi * progress))

    return at


def pid(
    target: Target,
    kp: float,
    ki: float = 0.0,
    kd: float = 0.0,
    *,
    low: float = 0.0,
    high: float = 1.0,
    bias: float = 0.0,
    ema: float = 0.0,
) -> Controller:
    """u = clip(bias + kp e + ki sum(e) + kd (e - e_before), low, high), e = target - measurement.

    Anti-windup: the sum is cut back to where the output leaves its bound, so the first error of the other sign moves the
    output. `ema` smooths the error: e <- ema * e_before + (1 - ema) * e.
    """
    if not low < high:
        raise ValueError(f"A controller needs low < high, got low={low}, high={high}.")
    if ki < 0 or kp < 0 or kd < 0 or not 0 <= ema < 1:
        raise ValueError(f"Gains must be >= 0 and 0 <= ema < 1, got kp={kp}, ki={ki}, kd={kd}, ema={ema}.")

    def update(measurement, state):
        error = _at(target, state.count) - jnp.asarray(measurement, jnp.float32)
        first = state.count == 0
        smooth = ema * jnp.where(first, error, state.previous) + (1.0 - ema) * error
        change = jnp.where(first, jnp.zeros_like(smooth), smooth - state.previous)
        direct = bias + kp * smooth + kd * change
        integral = state.integral + smooth
        if ki > 0:
            below = jnp.minimum((low - direct) / ki, jnp.minimum(state.integral, 0.0))
            above = jnp.maximum((high - direct) / ki, jnp.maximum(state.integral, 0.0))
            integral = jnp.clip(integral, below, above)
        value = jnp.clip(direct + ki * integral, low, high)
        return value, PIDState(integral, smooth, state.count + 1)

    return Controller(lambda: PIDState(_zero(), _zero(), jnp.zeros((), jnp.int32)), update)


def pi(
    target: Target,
    kp: float,
    ki: float,
    *,
    low: float = 0.0,
    high: float = 1.0,
    bias: float = 0.0,
    ema: float = 0.0,
) -> Controller:
    """Proportional-integral control: `pid` without the derivative."""
    return pid(target, kp, ki, low=low, high=high, bias=bias, ema=ema)


def bang_bang(target: Target, *, below: float, above: float) -> Controller:
    """`below` while measurement <= target, `above` while it is greater."""

    def update(measurement, state):
        measurement = jnp.asarray(measurement, jnp.float32)
        value = jnp.where(measurement <= _at(target, state.count), jnp.float32(below), jnp.float32(above))
        return value, Count(state.count + 1)

    return Controller(lambda: Count(jnp.zeros((), jnp.int32)), update)


def staircase(
    target: Target, *, delta: float, low: float = 0.0, high: float = 1.0, initial: float = 0.0
) -> Controller:
    """One step of `delta` up while measurement < target, one down otherwise, kept in [low, high]; the value *after* the step."""
    _positive("delta", delta)
    if not low <= initial <= high:
        raise ValueError(f"initial={initial} lies outside [{low}, {high}].")

    def update(measurement, state):
        measurement = jnp.asarray(measurement, jnp.float32)
        move = jnp.where(measurement < _at(target, state.count), jnp.float32(delta), jnp.float32(-delta))
        value = jnp.clip(state.value + move, low, high)
        return value, Level(value, state.count + 1)

    return Controller(lambda: Level(jnp.asarray(initial, jnp.float32), jnp.zeros((), jnp.int32)), update)


def _positive(name: str, value: float) -> None:
    if not value > 0:
        raise ValueError(f"{name} must be greater than 0, got {value}.")
