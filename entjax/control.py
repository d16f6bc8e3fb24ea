"""Controllers: one interface, measurement -> value, for everything that changes during a run.

    init() -> state                      update(measurement, state) -> (value, state)

The same controller drives an entropy coefficient, a clip width or a temperature. State is a pytree that lives in the
checkpoint. Every bounded controller recovers from its bounds: an integral never grows beyond what the output can use.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

Target = float | Callable[[Any], Any]


class Controller(NamedTuple):
    init: Callable[[], Any]
    update: Callable[[Any, Any], tuple[Any, Any]]
    measure: str = (
        "shannon"  # which entropy it wants to see: "shannon", or "nll" = -mean log-prob of the sampled tokens
    )


class Count(NamedTuple):
    """How often a schedule was asked."""

    count: Int[Array, ""]


class PIDState(NamedTuple):
    integral: Float[Array, ""]
    previous: Float[Array, ""]  # the last error
    count: Int[Array, ""]


class Switched(NamedTuple):
    """A coefficient and whether the next step applies it."""

    coef: Float[Array, ""]
    enabled: Float[Array, ""]  # 1 or 0


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


def measuring(measure: str, controller: Controller) -> Controller:
    """The same controller, fed with another estimate of the entropy: "shannon" (exact) or "nll" (of the sampled tokens)."""
    if measure not in ("shannon", "nll"):
        raise ValueError(f"measure must be 'shannon' or 'nll', got {measure!r}.")
    return controller._replace(measure=measure)


def constant(value: float) -> Controller:
    """Always `value`, whatever is measured."""
    return Controller(lambda: (), lambda measurement, state: (jnp.asarray(value, jnp.float32), state))


def schedule(f: Callable[[Any], Any]) -> Controller:
    """f(step), e.g. any optax schedule; the step is counted in the state."""

    def update(measurement, state):
        return jnp.asarray(f(state.count), jnp.float32), Count(state.count + 1)

    return Controller(lambda: Count(jnp.zeros((), jnp.int32)), update)


def linear(start: float, end: float, steps: int) -> Callable:
    """start + (end - start) * step / steps, constant afterwards.

    Steps are rollout batches in a per_rollout chain and optimizer steps (batches x minibatches) in a per_step chain.
    """
    _positive("steps", steps)
    return lambda step: start + (end - start) * jnp.minimum(jnp.asarray(step, jnp.float32) / steps, 1.0)


def cosine(start: float, end: float, steps: int) -> Callable:
    """start + (end - start) * (1 - cos(pi step / steps)) / 2, constant afterwards; steps as in `linear`."""
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
    bias: float | None = None,
    ema: float = 0.0,
) -> Controller:
    """u = clip(bias + kp e + ki sum(e) + kd (e - e_before), low, high), e = target - measurement.

    Gains are positive where a larger u raises the measurement (an entropy coefficient), negative where it lowers it (a KL
    coefficient). `bias` is the output without error: 0, or the bound next to it. `ema` smooths e <- ema e_before + (1 - ema) e.

    Anti-windup: the sum grows only to where bias + kp e + ki sum(e) meets the bound, and not at all beyond it, so the first
    error of the other sign moves the output off its bound. A measurement that is not finite counts as no error.
    """
    sign = _check_pid(kp, ki, kd, low, high, ema)
    _check_target(target)
    rest = float(min(max(0.0, low), high)) if bias is None else bias
    if not low <= rest <= high:
        raise ValueError(f"A controller needs low <= bias <= high, got low={low}, bias={bias}, high={high}.")

    def update(measurement, state):
        error = sign * (_at(target, state.count) - jnp.asarray(measurement, jnp.float32))
        error = jnp.where(jnp.isfinite(error), error, 0.0)
        first = state.count == 0
        smooth = ema * jnp.where(first, error, state.previous) + (1.0 - ema) * error
        change = jnp.where(first, jnp.zeros_like(smooth), smooth - state.previous)
        direct = rest + abs(kp) * smooth
        integral = accumulate(state.integral, smooth, direct, abs(ki), low, high)
        value = jnp.clip(direct + abs(ki) * integral + abs(kd) * change, low, high)
        return value, PIDState(integral, smooth, state.count + 1)

    return Controller(lambda: PIDState(_zero(), _zero(), jnp.zeros((), jnp.int32)), update)


def accumulate(integral: Array, error: Array, direct: Array, ki: float, low: float, high: float) -> Array:
    """integral + error, but an output direct + ki integral is pushed neither beyond its bounds nor further beyond them."""
    grown = integral + error
    if not ki:
        return grown
    ceiling = jnp.maximum((high - direct) / ki, integral)
    floor = jnp.minimum((low - direct) / ki, integral)
    return jnp.where(error > 0, jnp.minimum(grown, ceiling), jnp.maximum(grown, floor))


def _check_pid(kp: float, ki: float, kd: float, low: float, high: float, ema: float) -> float:
    """The common sign of the gains."""
    if not low < high:
        raise ValueError(f"A controller needs low < high, got low={low}, high={high}.")
    gains = [gain for gain in (kp, ki, kd) if gain]
    if not gains or min(gains) < 0 < max(gains) or not 0 <= ema < 1:
        raise ValueError(
            "A controller needs a gain that is not 0, gains of one sign (negative: a larger output lowers the measurement) and "
            f"0 <= ema < 1, got kp={kp}, ki={ki}, kd={kd}, ema={ema}."
        )
    return 1.0 if gains[0] > 0 else -1.0


def pi(
    target: Target,
    kp: float,
    ki: float,
    *,
    low: float = 0.0,
    high: float = 1.0,
    bias: float | None = None,
    ema: float = 0.0,
) -> Controller:
    """Proportional-integral control: `pid` without the derivative."""
    return pid(target, kp, ki, low=low, high=high, bias=bias, ema=ema)


def bang_bang(target: Target, *, below: float, above: float) -> Controller:
    """`below` while measurement <= target, `above` while it is greater."""
    _check_target(target)

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
    _check_target(target)
    if not low <= initial <= high:
        raise ValueError(f"initial={initial} lies outside [{low}, {high}].")

    def update(measurement, state):
        measurement = jnp.asarray(measurement, jnp.float32)
        move = jnp.where(measurement < _at(target, state.count), jnp.float32(delta), jnp.float32(-delta))
        value = jnp.clip(state.value + move, low, high)
        return value, Level(value, state.count + 1)

    return Controller(lambda: Level(jnp.asarray(initial, jnp.float32), jnp.zeros((), jnp.int32)), update)


def skywork(
    target: float = 0.2,
    *,
    delta: float = 1e-4,
    low: float = 0.0,
    high: float = 5e-3,
    initial: float = 0.0,
    measure: str = "nll",
) -> Controller:
    """Skywork-OR1's coefficient, as released: uses c e, then c <- clip(c +- delta) and e <- 1[H < target], + iff H < target.

    The value of a step comes from the steps before. Above the target the term is off at once (e = 0) while c winds down by delta
    a step, so it comes back with about the strength it had. Starts with e = 1.
    """
    return _switched(_Switch(target, delta, low, high, initial, 1.0, lambda H, goal: goal > H), measure)


def trl_adaptive(
    target: float = 0.2,
    *,
    delta: float = 5e-3,
    low: float = 0.0,
    high: float = 1.0,
    initial: float = 0.0,
    measure: str = "shannon",
) -> Controller:
    """TRL's: as `skywork`, but + and e = 1 iff H <= target, and off in the first step (no entropy was seen yet)."""
    return _switched(_Switch(target, delta, low, high, initial, 0.0, lambda H, goal: goal >= H), measure)


class _Switch(NamedTuple):
    target: float
    delta: float
    low: float
    high: float
    initial: float
    enabled: float
    wants_more: Callable[[Any, Any], Any]


def _switched(rule: _Switch, measure: str) -> Controller:
    _positive("delta", rule.delta)
    _check_target(rule.target)
    if not rule.low <= rule.initial <= rule.high:
        raise ValueError(f"initial={rule.initial} lies outside [{rule.low}, {rule.high}].")

    def init():
        return Switched(jnp.asarray(rule.initial, jnp.float32), jnp.asarray(rule.enabled, jnp.float32))

    def update(measurement, state):
        more = rule.wants_more(jnp.asarray(measurement, jnp.float32), jnp.float32(rule.target))
        coef = state.coef + jnp.where(more, jnp.float32(rule.delta), jnp.float32(-rule.delta))
        new = Switched(jnp.clip(coef, rule.low, rule.high), more.astype(jnp.float32))
        return state.coef * state.enabled, new

    return measuring(measure, Controller(init, update))


def _check_target(target: Target) -> None:
    """A controller without a number to aim at would never act, and say nothing."""
    is_number = isinstance(target, (int, float)) and not isinstance(target, bool) and math.isfinite(target)
    if not (is_number or callable(target) or isinstance(target, jax.Array | np.ndarray | np.generic)):
        raise ValueError(f"target={target!r}: give a finite number, or a schedule of the step.")


def _positive(name: str, value: float) -> None:
    if not value > 0:
        raise ValueError(f"{name} must be greater than 0, got {value}.")
