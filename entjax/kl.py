"""Estimators of KL(pi_theta || pi_ref) from the sampled token, as plain functions, as features of the loss and as a controller.

    d = log pi_ref - log pi_theta
    k1 = -d        |k1| = |d|        k2 = d^2 / 2        k3 = exp(d) - d - 1 >= 0      (Schulman, "Approximating KL divergence")

Gradients with respect to log pi: k1 1 (on-policy of mean 0: useless as a loss), k2 -d (unbiased on-policy), k3 1 - exp(d).
`straight_through(k)` keeps the value of k and takes the gradient of k2 (verl's "k1+" and "k3+"); `feature(..., corrected=True)`
multiplies by the ratio r = pi_theta / pi_old, gradient through r included (DeepSeek-V3.2's unbiased KL, TRL's bias correction).

verl clamps d to +-20 and k3's value to [-10, 10], where the gradient ends: the defaults here. TRL clamps neither:
k3(log_clip=inf, value_clip=inf).

    adaptive: beta <- beta (1 + clip(KL / target - 1, +-0.2) n / horizon)            (Ziegler et al., arXiv 1909.08593)
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from entjax import vocab
from entjax.control import Controller, Level


class Estimator(NamedTuple):
    """A name and d -> estimate per token. Hashable: equal arguments give the same object."""

    name: str
    value: Callable[[Array], Array]


@functools.lru_cache(None)
def k1() -> Estimator:
    """-d: unbiased, of either sign."""
    return Estimator("k1", lambda d: -d)


@functools.lru_cache(None)
def absolute() -> Estimator:
    """|d|: KL-Cov's penalty. Its gradient at d = 0 is 0."""
    return Estimator("abs", _absolute)


@functools.lru_cache(None)
def k2() -> Estimator:
    """d^2 / 2: biased value, unbiased gradient on-policy."""
    return Estimator("k2", lambda d: 0.5 * d**2)


def k3(log_clip: float = 20.0, value_clip: float = 10.0) -> Estimator:
    """exp(d) - d - 1: unbiased, never negative. d is clipped to +-log_clip, the value to +-value_clip."""
    if not (log_clip > 0 and value_clip > 0):
        raise ValueError(f"k3's clamps must be positive, got log_clip={log_clip}, value_clip={value_clip}.")
    return _k3(float(log_clip), float(value_clip))


@functools.lru_cache(None)
def _k3(log_clip: float, value_clip: float) -> Estimator:
    def value(d):
        d = jnp.clip(d, -log_clip, log_clip)
        return jnp.clip(jnp.expm1(d) - d, -value_clip, value_clip)

    usual = (log_clip, value_clip) == (20.0, 10.0)
    return Estimator("k3" if usual else f"k3_{log_clip:g}_{value_clip:g}", value)


@functools.lru_cache(None)
def straight_through(estimator: Estimator) -> Estimator:
    """The value of `estimator` with the gradient of k2 (verl's "k1+", "k3+")."""

    def value(d):
        square = k2().value(d)
        return jax.lax.stop_gradient(estimator.value(d) - square) + square

    return Estimator(f"{estimator.name}+", value)


def feature_name(
    estimator: Estimator | None = None, against: str = "ref_logp", corrected: bool = False
) -> str:
    """The key under which `feature(...)` of equal arguments goes into reads, terms and signal.coef."""
    return f"kl_{(estimator or k3()).name}{'_corrected' if corrected else ''}_{against}"


def feature(
    estimator: Estimator | None = None, against: str = "ref_logp", corrected: bool = False
) -> vocab.Feature:
    """The estimate (default k3) against `side[against]`: "ref_logp", "old_logp" or any [B, T] log-prob in rollout.extra."""
    return _feature(estimator or k3(), against, corrected)


@functools.lru_cache(None)
def _feature(estimator: Estimator, against: str, corrected: bool) -> vocab.Feature:
    def kl(row):
        logp = vocab.logp(row)
        k = estimator.value(_difference(row, logp, against))
        if corrected:
            k = k * jnp.exp(jnp.clip(-_difference(row, logp, "old_logp"), -20.0, 20.0))
        return k

    kl.__name__ = feature_name(estimator, against, corrected)
    return kl


def adaptive(
    initial: float = 0.2, target: float = 6.0, horizon: float = 10_000, n: float = 256
) -> Controller:
    """The coefficient after each update, fed with the measured KL; an update sees `n` sequences (defaults: Ziegler et al.)."""
    if not (initial > 0 and target > 0 and horizon > 0 and 0 < 0.2 * n < horizon):
        raise ValueError(
            "adaptive() needs initial, target, horizon, n > 0 and 0.2 n < horizon (or the coefficient could change its sign), "
            f"got initial={initial}, target={target}, horizon={horizon}, n={n}."
        )

    def update(measurement, state):
        value = adapt(state.value, jnp.asarray(measurement, jnp.float32), target, horizon, n)
        return value, Level(value, state.count + 1)

    return Controller(lambda: Level(jnp.asarray(initial, jnp.float32), jnp.zeros((), jnp.int32)), update)


def adapt(coef: Array, kl: Array, target: float, horizon: float, n: float) -> Array:
    """One update of `adaptive`."""
    error = jnp.clip(kl / target - 1.0, -0.2, 0.2)
    return coef * (1.0 + error * n / horizon)


def _difference(row: vocab.Row, logp: Array, against: str) -> Array:
    """d, and 0 on padding where the caller tells which that is: garbage there must not reach exp()."""
    if against not in row.side:
        raise ValueError(
            f"A KL feature compares with side['{against}'], which is not there. Reference log-probs come from "
            "make_score(model, objective)(state, rollout); other log-probs go into rollout.extra."
        )
    d = row.side[against].astype(logp.dtype) - logp
    return jnp.where(row.side["mask"], d, 0) if "mask" in row.side else d


def _absolute(d: Array) -> Array:
    return d * jax.lax.stop_gradient(jnp.sign(d))
