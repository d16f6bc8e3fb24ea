"""CANON: compare the answers of a group across and within halves of high and low entropy, or length (arXiv 2509.23962).

    high: A = [mu (R - alpha mean_low + beta) + (1 - mu) (R - mean_high)] / L_max
    low:  A = [mu (alpha R - mean_high - beta) + (1 - mu) (R - mean_low)] / L_max                      metric="entropy"

metric="length": alpha multiplies R on the long half and mean_long on the short one. The halves split the group's order by the
mean behaviour entropy (or number of tokens) of an answer; an odd one goes up; ties keep row order. mu = 1 compares with the
other half, 0 within the half; a group of one keeps its reward. Defaults mu 1, alpha 1, beta 0 (alpha 0.9 in the length runs),
L_max 1 (the response limit when the loss sums over tokens). mu="accuracy" is the `annel` schedule, mu = mean_batch R;
mu=canon_cosine() and mu=canon_cosine(rising=False) are the cosine restarts. metric="row" splits by row order, the control.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp

from entjax import masked
from entjax.advantages.returns import is_alone, on_tokens
from entjax.control import Controller, Target
from entjax.transform import Transform, is_dynamic, tunable


def canon(
    metric: str = "entropy",
    *,
    mu: Target | Controller | str = 1.0,
    alpha: Target | Controller = 1.0,
    beta: Target | Controller = 0.0,
    l_max: float = 1.0,
) -> Transform:
    """Conditional advantage estimation."""
    if metric not in ("entropy", "length", "row"):
        raise ValueError(f"metric must be 'entropy', 'length' or 'row', got {metric!r}.")
    if isinstance(mu, str) and mu != "accuracy":
        raise ValueError(f"mu must be a number in [0, 1], a schedule or 'accuracy', got {mu!r}.")
    if not is_dynamic(mu) and not isinstance(mu, str) and not 0 <= mu <= 1:
        raise ValueError(f"mu must lie in [0, 1], got {mu}.")
    if not l_max > 0:
        raise ValueError(f"l_max must be greater than 0, got {l_max}.")

    def order_of(rollout):
        if metric == "entropy":
            return masked.mean(rollout.entropy, rollout.mask, axis=1)
        return masked.count(rollout.mask, axis=1) * (1 if metric == "length" else 0)

    def f(signal, context, *, mu, alpha, beta, **_):
        reward, rollout = signal.reward, context.rollout
        group, dtype = rollout.group, reward.dtype
        if isinstance(mu, str):
            mu = masked.mean(reward, group >= 0)
        mu, alpha, beta = (jnp.asarray(x, dtype) for x in (mu, alpha, beta))
        n = masked.group_count(group, jnp.int32)
        high = masked.group_rank(order_of(rollout), group) >= n // 2
        mean_low, mean_high = _mean_of(reward, group, ~high), _mean_of(reward, group, high)
        mean_high = jnp.where(is_alone(group), 0, mean_high)
        if metric == "length":
            across_high, across_low = alpha * reward - mean_low + beta, reward - alpha * mean_high - beta
        else:
            across_high, across_low = reward - alpha * mean_low + beta, alpha * reward - mean_high - beta
        of_high = mu * across_high + (1 - mu) * (reward - mean_high)
        of_low = mu * across_low + (1 - mu) * (reward - mean_low)
        return signal.replace(advantage=on_tokens(jnp.where(high, of_high, of_low) / l_max, signal.mask))

    hyper = {"metric": metric, "mu": mu, "alpha": alpha, "beta": beta, "l_max": l_max}
    return tunable("canon", f, hyper, writes={"advantage"}, owns={"baseline"})


def canon_cosine(*, rising: bool = True, steps: int = 150, warmup: int = 30, cycles: int = 3) -> Callable:
    """mu(step) by cosine restarts. rising: 1 - c with c from 0.6 to 0; otherwise c from 1 to 0.4. c warms up linearly."""
    top, floor = (0.6, 0.0) if rising else (1.0, 0.4)
    period = (steps - warmup) // cycles

    def mu(step):
        step = jnp.asarray(step, jnp.float32)
        progress = ((step - warmup) % period) / period
        falling = floor + (top - floor) * 0.5 * (1 + jnp.cos(jnp.pi * progress))
        c = jnp.where(step < warmup, top * (step + 1) / warmup, falling)
        return 1 - c if rising else c

    return mu


def _mean_of(reward, group, half):
    """Mean reward of one half of the group, 0 where it is empty."""
    n = masked.group_total(half.astype(reward.dtype), group)
    return masked.group_total(jnp.where(half, reward, 0), group) / jnp.maximum(n, 1)
