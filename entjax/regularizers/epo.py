"""EPO: entropy bonus with a band around the entropy's own history, for agents of many turns (arXiv 2509.22576; WujiangXu/EPO).

    loss += -lambda (L_H - beta_k L_smooth)
    L_H = mean over rows and turns of the turn's token-mean entropy;    L_smooth = the same mean of alpha P_t
    P_t = relu(kappa_l Hbar - H_t) + relu(H_t - kappa_r Hbar),    beta_k = 1 + exp(-gamma k / k_mid)

Hbar = mean over the earlier optimizer steps, which k counts, of the batch entropy of that turn (L_smooth = 0 while there is
none). P is linear in H_t on each side of the band, so the term is a coefficient of H_t decided before the gradient. Defaults:
lambda 1e-3, kappa .8/1.2 and alpha .1 (code; scripts 0/2 and .05 or .1), gamma 1 (ours), k_mid 75 (half of the paper's 150
steps). Turns come from rollout.extra["turn"] [B, T] when `turns` > 1. The released code makes P a constant without gradient:
`epo_released`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from entjax import masked, vocab
from entjax.control import Target
from entjax.transform import Transform, stateful


class EpoState(NamedTuple):
    """Per turn: the sum of the batch entropies so far and their number."""

    total: Float[Array, " turns"]
    count: Float[Array, " turns"]


def epo(
    coef: Target = 1e-3,
    *,
    lower: float = 0.8,
    upper: float = 1.2,
    alpha: float = 0.1,
    gamma: float = 1.0,
    middle: int = 75,
    turns: int = 1,
) -> Transform:
    """Entropy bonus that turns into a penalty above the band (if alpha beta_k > 1) and doubles below it."""
    if not 0 <= lower < upper:
        raise ValueError(f"epo needs 0 <= lower < upper, got lower={lower}, upper={upper}.")
    if turns < 1 or middle < 1:
        raise ValueError(f"epo needs turns, middle >= 1, got turns={turns}, middle={middle}.")

    def f(signal, state, context, *, coef):
        mask = signal.mask
        H = masked.keep(context.stats["entropy"], mask)
        turn = turn_index(context.rollout, turns)
        known = (state.count > 0)[turn]
        history = (state.total / jnp.maximum(state.count, 1))[turn].astype(H.dtype)
        low, high = lower * history, upper * history if upper < math.inf else jnp.full_like(history, math.inf)
        k = jnp.asarray(context.step, H.dtype)
        beta = 1 + jnp.exp(-gamma * k / middle)
        side = jnp.where(known, (high < H).astype(H.dtype) - (low > H).astype(H.dtype), 0)
        band = jnp.where(known, jax.nn.relu(low - H) + jax.nn.relu(H - high), 0)
        scale = turn_means(mask, turn, turns, H.dtype)
        slope = -jnp.asarray(coef, H.dtype) * (1 - beta * alpha * side)
        signal = signal.add_term("epo", masked.keep(slope, mask), own_scale=scale)
        smooth = jnp.sum(scale * alpha * band)
        signal = signal.note(context, entropy=jnp.sum(scale * H), smooth=smooth, beta=beta)
        return signal, remember(state, H, mask, turn)

    return stateful(
        "epo",
        lambda: EpoState(jnp.zeros(turns, jnp.float32), jnp.zeros(turns, jnp.float32)),
        f,
        {"coef": coef},
        reads={"entropy": vocab.entropy},
        terms={"epo": vocab.entropy},
        needs={"turn"} if turns > 1 else (),
        writes={"coef"},
        owns={"entropy"},
    )


def turn_index(rollout, turns: int):
    """The turn of every token, 0 where there is only one."""
    if turns == 1:
        return jnp.zeros(rollout.tokens.shape, jnp.int32)
    return jnp.clip(rollout.extra["turn"], 0, turns - 1).astype(jnp.int32)


def turn_means(mask, turn, turns: int, dtype):
    """Averaging weights: the mean over a turn's tokens, then over the turns of a row, then over the rows that have any."""
    row = jnp.broadcast_to(jnp.arange(mask.shape[0])[:, None], mask.shape)
    tokens = jnp.zeros((mask.shape[0], turns), dtype).at[row, turn].add(mask.astype(dtype))
    active = (tokens > 0).astype(dtype).sum(1, keepdims=True)
    rows = jnp.maximum((active > 0).astype(dtype).sum(), 1)
    per_token = jnp.take_along_axis(jnp.maximum(tokens, 1), turn, axis=1) * jnp.maximum(active, 1) * rows
    return mask.astype(dtype) / per_token


def remember(state: EpoState, H, mask, turn) -> EpoState:
    """The history with this step's mean entropy of every turn that occurred."""
    tokens = jnp.zeros_like(state.count).at[turn].add(mask.astype(jnp.float32))
    total = jnp.zeros_like(state.total).at[turn].add(H.astype(jnp.float32))
    seen = (tokens > 0).astype(jnp.float32)
    return EpoState(state.total + total / jnp.maximum(tokens, 1), state.count + seen)
