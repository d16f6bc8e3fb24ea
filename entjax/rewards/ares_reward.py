"""ARES' entropy reward: easy prompts should explore little, hard ones much (arXiv 2510.08457, code shawn0728/ARES).

    R <- R + S,   D = N - target,   m = max(1, frac max(target, 1)),   x+ = max(x, 0),   cap = alpha_d (1, 1, 1.2)
    hub(x) = x^2 / (2 kappa) for x <= kappa, else x - kappa / 2,   sig(x) = 1 / (1 + exp(-x / temp))

    easy, right:    S = -min(cap, cap hub((D - m)+) / (m + kappa))              medium, right: the same with |D|
    easy, wrong:    S = .6 cap sig((D - m)+)      medium: .8      hard: 1
    hard, right:    S = cap sig(D + m) for D >= -m, else -min(cap, .5 cap hub(-D - m) / (m + kappa))

frac .15/.25/.35, kappa 2/3/4, temp 2/2.5/3 by difficulty. N counts triggers in high entropy (`ares_window`), target and
alpha come from `ares_bucket`, the threshold of H is a moving average (0.99) of the batch median of the answers' 95th
percentiles, one batch late; in the first batch every trigger counts. The paper's formula differs (its multiplier is 0 whenever
the target is the batch mean), so this is the released code; `top_k=10` also takes its truncated entropies.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from entjax import masked
from entjax.rewards import ares_bucket
from entjax.rewards.ares_window import (
    argmax_in,
    argmax_name,
    truncated,
    window_entropy_count,
    window_percentile,
)
from entjax.transform import Transform, stateful


class AresState(NamedTuple):
    threshold: Float[Array, ""]  # -1 before the first batch
    buckets: ares_bucket.Buckets


def entropy_score(
    right: Array, n_high: Array, difficulty: Int[Array, " B"], target: Array, alpha: Array
) -> Float[Array, " B"]:
    """S of every row."""
    n_high = masked.wide(n_high)
    by_difficulty = lambda *values: jnp.asarray(values, n_high.dtype)[difficulty]
    target = target.astype(n_high.dtype)
    delta = n_high - target
    margin = jnp.maximum(by_difficulty(0.15, 0.25, 0.35) * jnp.maximum(target, 1), 1)
    kappa, temp = by_difficulty(2.0, 3.0, 4.0), by_difficulty(2.0, 2.5, 3.0)
    cap = alpha.astype(n_high.dtype) * by_difficulty(1.0, 1.0, 1.2)
    hub = lambda x: jnp.where(x <= kappa, x**2 / (2 * kappa), x - kappa / 2) / (margin + kappa)
    sig = lambda x: jax.nn.sigmoid(x / temp)
    beyond = lambda x: jnp.maximum(x - margin, 0)
    away = jnp.where(difficulty == 0, delta, jnp.abs(delta))
    calm = -jnp.minimum(cap, cap * hub(beyond(away)))
    lively = jnp.where(
        delta >= -margin, cap * sig(delta + margin), -jnp.minimum(cap, 0.5 * cap * hub(beyond(-delta)))
    )
    wrong = cap * sig(beyond(delta)) * by_difficulty(0.6, 0.8, 1.0)
    return jnp.where(right, jnp.where(difficulty == 2, lively, calm), wrong)


def ares_reward(
    trigger_ids: Sequence[int],
    *,
    window: int = 4,
    percentile: float = 95.0,
    decay: float = 0.99,
    alpha: float = 0.5,
    correct: float = 1.0,
    top_k: int | None = None,
) -> Transform:
    """Add the entropy score to the reward; a row is right when the verifier's reward is at least `correct`."""
    if not trigger_ids or window < 1 or not 0 <= percentile <= 100 or not 0 <= decay < 1:
        raise ValueError(
            "ares_reward needs trigger token ids, window >= 1, 0 <= percentile <= 100 and 0 <= decay < 1, got "
            f"{len(trigger_ids)} ids, window={window}, percentile={percentile}, decay={decay}."
        )
    ids = tuple(int(token) for token in trigger_ids)
    features = {argmax_name(ids): argmax_in(ids)}
    if top_k is not None:
        features[f"top_{top_k}_entropy"] = truncated(top_k, True)
        features[f"top_{top_k}_entropy_bare"] = truncated(top_k, False)

    def f(signal, state, context, **_):
        rollout = context.rollout
        mask, group, extra = rollout.mask, rollout.group, rollout.extra
        entropy = rollout.entropy if top_k is None else extra[f"top_{top_k}_entropy"]
        bare = rollout.entropy if top_k is None else extra[f"top_{top_k}_entropy_bare"]
        right = (rollout.reward >= correct) & (group >= 0)
        n_high = window_entropy_count(entropy, extra[argmax_name(ids)] > 0, mask, state.threshold, window)[0]
        buckets = ares_bucket.update_buckets(state.buckets, masked.wide(right), n_high, group)
        level = ares_bucket.difficulty(masked.wide(right), group)
        score = entropy_score(right, n_high, level, buckets.target[level], buckets.alpha[level])
        score = masked.keep(score, group >= 0).astype(signal.reward.dtype)
        signal = signal.note(context, n_high=masked.mean(n_high, group >= 0), threshold=state.threshold)
        some = mask.any(axis=1)
        here = masked.quantile(window_percentile(bare, mask, percentile, window), some, 0.5)
        here = here.astype(state.threshold.dtype)
        moved = jnp.where(state.threshold < 0, here, decay * state.threshold + (1 - decay) * here)
        threshold = jnp.where(some.any(), moved, state.threshold)
        return signal.replace(reward=signal.reward + score), AresState(threshold, buckets)

    start = lambda: AresState(jnp.full((), -1.0, jnp.float32), ares_bucket.start_buckets(alpha))
    hyper = {"window": window, "percentile": percentile, "decay": decay, "alpha": alpha}
    return stateful("ares_reward", start, f, hyper, remembers=features, writes={"reward"})
