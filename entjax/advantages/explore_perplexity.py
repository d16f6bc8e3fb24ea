"""Perplexity shaping of "From Trial-and-Error to Improvement: ... LLM Exploration Mechanisms in RLVR" (arXiv 2508.07534).

    lp_i = -mean_t log pi_old,   w_i = (lp_i - mean) / std        mean and std (divisor n) over the rows of the group inside
                                                                  [q1 - 1.5 IQR, q3 + 1.5 IQR] of lp (all if none is left)
    A'_i = A_i clip(1 - alpha w_i, 0.8, 1.2)                      `favour="high"`: clip(1 + alpha w_i, ...), the paper's control

Defaults: alpha 0.01 and low perplexity (paper). std <= 1e-6 counts as 1. The released low-perplexity branch computes w and never
multiplies it in (it trains plain GRPO): `variant="released"`.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from entjax import masked
from entjax.control import Controller, Target
from entjax.transform import Transform, tunable


def explore_perplexity(
    *, alpha: Target | Controller = 0.01, favour: str = "low", variant: str = "paper"
) -> Transform:
    """Weighs rows by how fluent the behaviour policy found them, relative to their group."""
    if favour not in ("low", "high"):
        raise ValueError(f"favour must be 'low' or 'high' (perplexity), got {favour!r}.")
    if variant not in ("paper", "released"):
        raise ValueError(f"variant must be 'paper' or 'released', got {variant!r}.")

    def f(signal, context, *, alpha):
        rollout, advantage = context.rollout, signal.advantage
        lp, w, inside = perplexity_scores(rollout.old_logp, signal.mask, rollout.group)
        live = jnp.any(signal.mask, axis=1) & (rollout.group >= 0)
        signal = signal.note(
            context,
            perplexity=masked.mean(jnp.exp(jnp.minimum(lp, 20)), live),
            outliers=masked.mean(~inside, live),
        )
        if favour == "low" and variant == "released":
            return signal
        slope = jnp.asarray(alpha, advantage.dtype) * (-1 if favour == "low" else 1)
        factor = jnp.clip(1 + slope * w.astype(advantage.dtype), 0.8, 1.2)
        return signal.replace(advantage=masked.keep(advantage * factor[:, None], signal.mask))

    return tunable("explore_perplexity", f, {"alpha": alpha}, writes={"advantage"})


def perplexity_scores(
    old_logp: Float[Array, "B T"], mask: Bool[Array, "B T"], group: Int[Array, " B"]
) -> tuple[Float[Array, " B"], Float[Array, " B"], Bool[Array, " B"]]:
    """(log-perplexity, its score w in the group, is the row inside the group's fences)."""
    lp = -masked.mean(old_logp, mask, axis=1)
    group = jnp.where(jnp.any(mask, axis=1), group, -1)
    q1, q3 = masked.group_quantile(lp, group, 0.25), masked.group_quantile(lp, group, 0.75)
    reach = 1.5 * (q3 - q1)
    inside = (lp >= q1 - reach) & (lp <= q3 + reach) & (group >= 0)
    some = masked.group_total(inside, group) > 0
    kept = jnp.where(inside | ~some, group, -1)
    same = masked.same_group(group) & (kept >= 0)[None, :]
    rows = jnp.broadcast_to(lp[None, :], same.shape)
    mean, std = masked.mean(rows, same, axis=1), masked.std(rows, same, axis=1)
    w = (lp - mean) / jnp.where(std > 1e-6, std, 1)
    return lp, jnp.where(group >= 0, w, 0), inside
