"""Surrogates: what the policy gradient maximises per token, (log_ratio [B, T], signal) -> [B, T]; the loss takes -weight * it.

log_ratio = log pi_theta(token) - log pi_old(token), clipped to +-20 and 0 outside the mask; r = exp(log_ratio). A surrogate
that looks at a whole sequence is marked with `whole_rows`.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from entjax import masked
from entjax.types import Signal

Surrogate = Callable[[Float[Array, "B T"], Signal], Float[Array, "B T"]]


def whole_rows(surrogate: Surrogate) -> Surrogate:
    """Mark a surrogate whose value at a token depends on the other tokens of its row."""
    surrogate.whole_rows = True
    return surrogate


def sees_whole_rows(surrogate: Surrogate) -> bool:
    """True when the surrogate was marked by `whole_rows`."""
    return getattr(surrogate, "whole_rows", False)


def ppo_clip(log_ratio: Array, signal: Signal) -> Array:
    """min(r A, clip(r, low, high) A)."""
    ratio = jnp.exp(log_ratio)
    clipped = jnp.clip(ratio, signal.clip_low, signal.clip_high)
    return jnp.minimum(ratio * signal.advantage, clipped * signal.advantage)


def dual_clip(c: float = 3.0) -> Surrogate:
    """PPO's, and for A < 0 never below c A: max(min(r A, clip(r) A), c A). c = 3 (verl), 10 (DAPO's and most entropy scripts)."""
    if not c > 1:
        raise ValueError(f"dual_clip needs c > 1, got {c}.")

    def surrogate(log_ratio, signal):
        value = ppo_clip(log_ratio, signal)
        return jnp.where(signal.advantage < 0, jnp.maximum(value, c * signal.advantage), value)

    return surrogate


def delta_clip(delta: float = 4.0) -> Surrogate:
    """Two-sided clip: r is capped at delta > 1 + eps before the minimum (TRL's `delta`)."""
    if not delta > 1:
        raise ValueError(f"delta_clip needs delta > 1, got {delta}.")

    def surrogate(log_ratio, signal):
        ratio = jnp.exp(log_ratio)
        clipped = jnp.clip(ratio, signal.clip_low, signal.clip_high)
        return jnp.minimum(jnp.minimum(ratio, delta) * signal.advantage, clipped * signal.advantage)

    return surrogate


def unclipped(log_ratio: Array, signal: Signal) -> Array:
    """r A."""
    return jnp.exp(log_ratio) * signal.advantage


def reinforce(log_ratio: Array, signal: Signal) -> Array:
    """A log pi (up to a constant): the plain policy gradient."""
    return signal.advantage * log_ratio


def cispo(log_ratio: Array, signal: Signal) -> Array:
    """sg[clip(r, low, high)] A log pi (up to a constant): the gradient is scaled, never cut."""
    weight = jax.lax.stop_gradient(jnp.clip(jnp.exp(log_ratio), signal.clip_low, signal.clip_high))
    return weight * signal.advantage * log_ratio


def sapo(positive: float = 1.0, negative: float = 1.05) -> Surrogate:
    """(4 / tau) sigmoid(tau (r - 1)) A, tau = `positive` for A > 0, else `negative`. Soft gate, same gradient as REINFORCE at r = 1."""

    def surrogate(log_ratio, signal):
        tau = jnp.where(signal.advantage > 0, positive, negative).astype(log_ratio.dtype)
        return 4.0 / tau * jax.nn.sigmoid(tau * (jnp.exp(log_ratio) - 1.0)) * signal.advantage

    return surrogate


@whole_rows
def gspo(log_ratio: Array, signal: Signal) -> Array:
    """PPO's clip on the ratio s_b = exp(mean_t log_ratio) of the sequence; gradient as if r_t = sg[s_b] pi_t / sg[pi_t]."""
    sequence = masked.mean(log_ratio, signal.mask, axis=1, keepdims=True)
    token = jax.lax.stop_gradient(sequence - log_ratio) + log_ratio
    return ppo_clip(jnp.minimum(token, 10.0), signal)


@whole_rows
def gmpo(log_ratio: Array, signal: Signal) -> Array:
    """Geometric mean: mean_t(A) exp(mean_t of the sign-aware clipped log-ratio), the same number at every token of the row.

    y = s min(s x, s clip(x, log low, log high)), s = sign(A); paper's range is exp(+-0.4).
    """
    sign = jnp.sign(signal.advantage)
    clipped = jnp.clip(log_ratio, jnp.log(signal.clip_low), jnp.log(signal.clip_high))
    y = sign * jnp.minimum(sign * log_ratio, sign * clipped)
    advantage = masked.mean(signal.advantage, signal.mask, axis=1, keepdims=True)
    value = advantage * jnp.exp(masked.mean(y, signal.mask, axis=1, keepdims=True))
    return jnp.broadcast_to(value, log_ratio.shape)


@whole_rows
def vespo(log_ratio: Array, signal: Signal) -> Array:
    """phi A log pi, phi = sg[exp(lam + k log w - lam w)], w = exp(sum_t log_ratio); (k, lam) = (2, 3) for A >= 0, else (3, 2)."""
    x = jnp.clip(masked.total(log_ratio, signal.mask, axis=1, keepdims=True), jnp.log(1e-8), 20.0)
    positive = signal.advantage >= 0
    k = jnp.where(positive, 2.0, 3.0).astype(x.dtype)
    lam = jnp.where(positive, 3.0, 2.0).astype(x.dtype)
    phi = jax.lax.stop_gradient(jnp.exp(lam + k * x - lam * jnp.exp(x)))
    return phi * signal.advantage * log_ratio
