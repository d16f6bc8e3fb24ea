"""Clip-Cov: a few tokens of high covariance get no gradient (The Entropy Mechanism of RL, arXiv 2505.22617).

    c_t = (A_t - mean A)(log p_t - mean log p)                      current policy, means over the valid tokens
    eligible: lb < c_t < ub and not already clipped by PPO;   K = max(1, int(rho n)) of them, drawn at random, get weight 0

They stay in the denominator. Defaults: rho 2e-4, lb 1, ub 5 (both repositories); the published scripts set the clip range to
low = high = 1, nearly no clip. lb and ub are in units of A times nats: retune them when advantages are not standardised.
K >= 1 always, so a small batch clips a larger share than rho. choose="highest" takes the K largest c_t instead of a draw:
deterministic, but not the paper's. Put it after the clips: it looks at the clip range.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from entjax import masked, vocab
from entjax.conflicts import steered
from entjax.control import Controller, Target
from entjax.entropy_change import token_covariance
from entjax.surrogates import ratio
from entjax.transform import Transform, is_dynamic, tunable


def clip_cov(
    fraction: Target | Controller = 2e-4, *, low: float = 1.0, high: float = 5.0, choose: str = "random"
) -> Transform:
    """Drop `fraction` of the tokens among those whose covariance lies in (low, high)."""
    if not is_dynamic(fraction) and not 0 <= fraction <= 1:
        raise ValueError(f"clip_cov needs 0 <= fraction <= 1, got {fraction}.")
    if not low < high:
        raise ValueError(f"clip_cov needs low < high, got low={low}, high={high}.")
    if choose not in ("random", "highest"):
        raise ValueError(f"clip_cov: choose must be 'random' or 'highest', got {choose!r}.")

    def f(signal, context, *, fraction):
        mask, a = signal.mask, signal.advantage
        logp = masked.keep(context.stats["logp"], mask).astype(a.dtype)
        covariance = token_covariance(a, logp, mask)
        r = ratio(masked.keep(logp - context.rollout.old_logp.astype(a.dtype), mask))
        clipped = -a * jnp.clip(r, signal.clip_low, signal.clip_high) > -a * r
        eligible = mask & (low < covariance) & (covariance < high) & ~clipped
        n = masked.count(mask, dtype=a.dtype)
        k = jnp.maximum((jnp.asarray(fraction, a.dtype) * n).astype(jnp.int32), 1)
        if choose == "random":
            order = jax.random.uniform(context.random_key(), mask.shape)
        else:
            order = -covariance
        dropped = masked.lowest(order, eligible, k)
        signal = signal.replace(weight=jnp.where(dropped, 0, signal.weight))
        return signal.note(
            context,
            dropped=masked.mean(dropped, mask),
            eligible=masked.mean(eligible, mask),
            mean=masked.mean(covariance, mask),
        )

    return tunable(
        "clip_cov",
        f,
        {"fraction": fraction},
        reads={"logp": vocab.logp},
        writes={"weight"},
        sees={"advantage", "clip"},
        owns=steered(fraction),
    )
