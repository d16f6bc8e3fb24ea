"""SPEAR's self-imitation: replayed answers against the running median of what groups achieved (arXiv 2509.22601).

    A_i = R_i - p50(group means)   [/ (p50(group stds) + eps) with std=True],   kept iff A_i > 0

    weight_decay:  A_i = weight_decay * (R_i - mean of the group in which it was sampled), nothing recomputed

Rows with extra["replayed"] [B] True get this advantage, the others feed the history with the mean and std (n - 1) of their
groups. Defaults: no std, eps 1e-6, a history of 10240 groups (32 in the run). Rows that are not kept leave the averages;
before any history there is nothing to imitate. With `weight_decay` in (0, 1] the advantage that was stored with a row,
extra["stored_advantage"] [B], is used instead. The released code drops whole old steps from the history, here single
groups leave it. `replay_weight` scales the replayed rows' loss, by default (1 - cos(pi step / 300)) / 2, then 1.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from entjax import masked
from entjax.advantages.returns import on_tokens
from entjax.control import Controller, Target, cosine
from entjax.transform import Transform, stateful, tunable


class History(NamedTuple):
    """Group means and stds of past steps in a ring; `count` is how many ever went in."""

    means: Float[Array, " capacity"]
    stds: Float[Array, " capacity"]
    count: Int[Array, ""]


def replay_baseline(
    *,
    std: bool = False,
    eps: float = 1e-6,
    capacity: int = 10240,
    keep_positive: bool = True,
    weight_decay: float | None = None,
) -> Transform:
    """Advantage of replayed rows; needs extra["replayed"]. Put it after the baseline of the fresh rows."""
    if capacity < 1 or eps < 0:
        raise ValueError(f"capacity must be >= 1 and eps >= 0, got capacity={capacity}, eps={eps}.")
    if weight_decay is not None and not 0 < weight_decay <= 1:
        raise ValueError(f"weight_decay must lie in (0, 1], or be None to compute anew, got {weight_decay}.")

    def anew(reward, state):
        known = jnp.arange(capacity) < state.count
        median = lambda x: masked.quantile(x, known, 0.5).astype(reward.dtype)
        advantage = (reward - median(state.means)) / (median(state.stds) + eps if std else 1)
        return jnp.where(state.count > 0, advantage, 0)

    def f(signal, state, context, **_):
        reward, group, extra = signal.reward, context.rollout.group, context.rollout.extra
        replayed = extra["replayed"].astype(bool)
        if weight_decay is None:
            advantage = anew(reward, state)
        else:
            advantage = weight_decay * extra["stored_advantage"].astype(reward.dtype)
        keep = ~replayed | (advantage > 0) if keep_positive else jnp.ones_like(replayed)
        chosen = jnp.where(replayed[:, None], on_tokens(advantage, signal.mask), signal.advantage)
        mask = signal.mask & keep[:, None]
        signal = signal.replace(advantage=jnp.where(mask, chosen, 0), mask=mask)
        return signal, _push(state, reward, jnp.where(replayed, -1, group), capacity)

    room = lambda: jnp.zeros(capacity, jnp.float32)
    empty = lambda: History(room(), room(), jnp.zeros((), jnp.int32))
    hyper = {
        "std": std,
        "eps": eps,
        "capacity": capacity,
        "keep_positive": keep_positive,
        "weight_decay": weight_decay,
    }
    needs = {"replayed"} if weight_decay is None else {"replayed", "stored_advantage"}
    return stateful("replay_baseline", empty, f, hyper, needs=needs, writes={"advantage", "mask"})


def replay_weight(coef: Target | Controller | None = None) -> Transform:
    """Scale the loss of replayed rows by `coef`."""
    coef = cosine(0.0, 1.0, 300) if coef is None else coef

    def f(signal, context, *, coef):
        scale = jnp.where(context.rollout.extra["replayed"].astype(bool), jnp.asarray(coef, jnp.float32), 1)
        return signal.replace(weight=signal.weight * scale[:, None].astype(signal.weight.dtype))

    return tunable("replay_weight", f, {"coef": coef}, needs={"replayed"}, writes={"weight"})


def _push(state: History, reward, group, capacity: int) -> History:
    """The history with the statistics of this batch's groups, in an order that does not depend on the rows'."""
    first = (group >= 0) & (masked.group_rank(jnp.zeros_like(reward), group) == 0)
    n = first.sum().astype(jnp.int32)
    stored = jnp.minimum(n, capacity)
    slot = jnp.arange(min(capacity, reward.shape[0]), dtype=jnp.int32)
    source = slot * n // jnp.maximum(stored, 1)  # more groups than places: evenly over the sorted values
    place = jnp.where(slot < stored, (state.count + slot) % capacity, capacity)

    def put(ring, x):
        ordered = jnp.sort(jnp.where(first, x, jnp.inf))
        return ring.at[place].set(
            ordered[jnp.minimum(source, x.shape[0] - 1)].astype(ring.dtype), mode="drop"
        )

    means = put(state.means, masked.group_mean(reward, group))
    stds = put(state.stds, masked.group_std(reward, group, ddof=1))
    return History(means, stds, state.count + stored)
