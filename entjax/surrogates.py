"""Surrogates: what the policy gradient maximises per token, (log_ratio [B, T], signal) -> [B, T]; the loss takes -weight * it.

log_ratio x = log pi_theta(token) - log pi_old(token), 0 outside the mask, not clipped; `ratio(x)` is r = exp(x) with x held
within +-20 (verl), where the gradient through r ends. Surrogates in log pi use x itself: their gradient never ends, and their
value differs from A log pi by a constant. A surrogate that looks at a whole sequence is marked with `whole_rows`.

REINFORCE with importance weights (sg[w] A log pi) is `reinforce` with `weights.importance`; GPG is `reinforce` with GPG's
advantage; LUSPO is `gspo` averaged by `sequence_mean_token_sum`.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from entjax import masked
from entjax.types import Signal

MAX_LOG_RATIO = 20.0

Surrogate = Callable[[Float[Array, "B T"], Signal], Float[Array, "B T"]]


def whole_rows(surrogate: Surrogate) -> Surrogate:
    """Mark a surrogate whose value at a token depends on the other tokens of its row."""
    surrogate.whole_rows = True
    return surrogate


def sees_whole_rows(surrogate: Surrogate) -> bool:
    """True when the surrogate was marked by `whole_rows`."""
    return getattr(surrogate, "whole_rows", False)


def ratio(log_ratio: Array) -> Array:
    """r = exp(x), x held within +-20: finite in float32, and no gradient beyond."""
    return jnp.exp(jnp.clip(log_ratio, -MAX_LOG_RATIO, MAX_LOG_RATIO))


def ppo_clip(log_ratio: Array, signal: Signal) -> Array:
    """min(r A, clip(r, low, high) A)  (PPO, arXiv 1707.06347)."""
    r = ratio(log_ratio)
    clipped = jnp.clip(r, signal.clip_low, signal.clip_high)
    return jnp.minimum(r * signal.advantage, clipped * signal.advantage)


def dual_clip(c: float = 3.0) -> Surrogate:
    """PPO's, and for A < 0 never below c A: max(min(r A, clip(r) A), c A). c = 3 (verl), 10 (DAPO's and most entropy scripts)."""
    if not c > 1:
        raise ValueError(f"dual_clip needs c > 1, got {c}.")

    def surrogate(log_ratio, signal):
        value = ppo_clip(log_ratio, signal)
        return jnp.where(signal.advantage < 0, jnp.maximum(value, c * signal.advantage), value)

    return surrogate


def delta_clip(delta: float = 4.0) -> Surrogate:
    """Two-sided clip: r is capped at delta > 1 + eps before the minimum (INTELLECT-2; TRL's `delta`)."""
    if not delta > 1:
        raise ValueError(f"delta_clip needs delta > 1, got {delta}.")

    def surrogate(log_ratio, signal):
        r = ratio(log_ratio)
        clipped = jnp.clip(r, signal.clip_low, signal.clip_high)
        return jnp.minimum(jnp.minimum(r, delta) * signal.advantage, clipped * signal.advantage)

    return surrogate


def preserve_high(c: float = 3.0) -> Surrogate:
    """`dual_clip` in value, but tokens above the range keep a gradient (agentic AEPO): the upper bound is high r / sg[r].

    d value / d log pi = F A,   F = high where r > high and A > 0; 0 where r < low or r > c and A < 0; else r. c = 3 (script).
    """
    if not c > 1:
        raise ValueError(f"preserve_high needs c > 1, got {c}.")

    def surrogate(log_ratio, signal):
        r = ratio(log_ratio)
        one = jnp.exp(log_ratio - jax.lax.stop_gradient(log_ratio))
        clipped = jnp.where(r > signal.clip_high, signal.clip_high * one, jnp.maximum(r, signal.clip_low))
        value = jnp.minimum(r * signal.advantage, clipped * signal.advantage)
        return jnp.where(signal.advantage < 0, jnp.maximum(value, c * signal.advantage), value)

    return surrogate


def unclipped(log_ratio: Array, signal: Signal) -> Array:
    """r A."""
    return ratio(log_ratio) * signal.advantage


def reinforce(log_ratio: Array, signal: Signal) -> Array:
    """A log pi (up to a constant): the plain policy gradient."""
    return signal.advantage * log_ratio


def cispo(log_ratio: Array, signal: Signal) -> Array:
    """sg[clip(r, low, high)] A log pi (up to a constant): the gradient is scaled, never cut (MiniMax-M1, arXiv 2506.13585).

    verl clips on both sides; ScaleRL and TRL only cap r, at an absolute number: `clips.cap(5.0)`.
    """
    weight = jax.lax.stop_gradient(jnp.clip(ratio(log_ratio), signal.clip_low, signal.clip_high))
    return weight * signal.advantage * log_ratio


def sapo(positive: float = 1.0, negative: float = 1.05) -> Surrogate:
    """(4 / tau) sigmoid(tau (r - 1)) A, tau = `positive` for A > 0, else `negative`. REINFORCE's gradient at r = 1.

    The gate is differentiated (verl, TRL); Trinity-RFT detaches it and multiplies log pi, which is another gradient.
    """
    if not (positive > 0 and negative > 0):
        raise ValueError(
            f"sapo's temperatures must be positive, got positive={positive}, negative={negative}."
        )

    def surrogate(log_ratio, signal):
        tau = jnp.where(signal.advantage > 0, positive, negative).astype(log_ratio.dtype)
        return 4.0 / tau * jax.nn.sigmoid(tau * (ratio(log_ratio) - 1.0)) * signal.advantage

    return surrogate


def sequence_level(surrogate: Surrogate) -> Surrogate:
    """The surrogate on the sequence's ratio s_b = exp(mean_t x_bt), with gradient as if r_t = sg[s_b] pi_t / sg[pi_t].

    log s_b is held below 10 (verl). With one advantage a sequence and equal averaging weights within it, the gradient is that
    of the paper's loss on s_b itself.
    """

    def of_sequences(log_ratio, signal):
        sequence = masked.mean(log_ratio, signal.mask, axis=1, keepdims=True)
        token = jax.lax.stop_gradient(sequence - log_ratio) + log_ratio
        return surrogate(jnp.minimum(token, 10.0), signal)

    return whole_rows(of_sequences)


gspo = sequence_level(ppo_clip)  # GSPO, arXiv 2507.18071; the paper's range is clips.asymmetric(3e-4, 4e-4)


@whole_rows
def gmpo(log_ratio: Array, signal: Signal) -> Array:
    """Geometric mean: mean_t(A) exp(mean_t y), y the sign-aware clipped log-ratio, the same number at every token of the row.

    y = s min(s x, s clip(x, log low, log high)), s = sign(A) (GMPO, arXiv 2507.20673; its range is `clips.geometric(0.4)`).
    """
    sign = jnp.sign(signal.advantage)
    clipped = jnp.clip(log_ratio, jnp.log(signal.clip_low), jnp.log(signal.clip_high))
    y = sign * jnp.minimum(sign * log_ratio, sign * clipped)
    advantage = masked.mean(signal.advantage, signal.mask, axis=1, keepdims=True)
    value = advantage * jnp.exp(
        masked.mean(y, signal.mask, axis=1, keepdims=True)
    )  # published without a bound of its own
    return jnp.broadcast_to(value, log_ratio.shape)


@whole_rows
def vespo(log_ratio: Array, signal: Signal) -> Array:
    """phi A log pi, phi = sg[exp(lam + k log w - lam w)], (k, lam) = (2, 3) for A >= 0, else (3, 2)  (TRL's defaults).

    log w = clip(sum_t clip(x_t, +-20), log 1e-8, 20).
    """
    x = jnp.clip(log_ratio, -MAX_LOG_RATIO, MAX_LOG_RATIO)
    log_w = jnp.clip(masked.total(x, signal.mask, axis=1, keepdims=True), jnp.log(1e-8), MAX_LOG_RATIO)
    positive = signal.advantage >= 0
    k = jnp.where(positive, 2.0, 3.0).astype(log_w.dtype)
    lam = jnp.where(positive, 3.0, 2.0).astype(log_w.dtype)
    phi = jax.lax.stop_gradient(jnp.exp(lam + k * log_w - lam * jnp.exp(log_w)))
    return phi * signal.advantage * log_ratio
