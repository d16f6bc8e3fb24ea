"""Rejection masks for the mismatch between sampler and trainer: drop what the sampler drew from another distribution.

    d = log p_trainer - log p_sampler, within +-20;   k1 = -d,   k2 = d^2 / 2,   k3 = exp(d) - d - 1
    keep while the statistic of the token, or the sum, mean or maximum over its sequence, lies within the bounds (inclusive)

For k1 the bounds are a pair `low`, `high` on exp(k1) = p_sampler / p_trainer, the reciprocal of the importance ratio; k2 and k3
have `high` alone. There is no default threshold (verl has none). What is rejected leaves the averages, as in verl;
denominator="all" only zeroes its weight. Two masks are two transforms, one of them renamed; each judges all sampled tokens.
"""

from __future__ import annotations

import jax.numpy as jnp

from entjax import masked
from entjax.transform import Transform, tunable
from entjax.weights._keep import check, keep_tokens, writes

STATISTICS = {
    "k1": lambda d: -d,
    "k2": lambda d: 0.5 * d**2,
    "k3": lambda d: jnp.expm1(d) - d,
}
LEVELS = {
    "token": lambda k, mask: k,
    "sequence_sum": lambda k, mask: masked.total(k, mask, axis=1, keepdims=True),
    "sequence_mean": lambda k, mask: masked.mean(k, mask, axis=1, keepdims=True),
    "sequence_max": lambda k, mask: masked.maximum(k, mask, axis=1, keepdims=True),
}


def reject_mismatch(
    statistic: str = "k3",
    level: str = "sequence_mean",
    *,
    high: float,
    low: float | None = None,
    denominator: str = "selected",
) -> Transform:
    """Keep tokens or sequences whose mismatch statistic lies within bounds."""
    if statistic not in STATISTICS or level not in LEVELS:
        raise ValueError(
            f"reject_mismatch knows statistics {tuple(STATISTICS)} and levels {tuple(LEVELS)}, "
            f"got {statistic!r} and {level!r}."
        )
    if (statistic == "k1") != (low is not None):
        raise ValueError(
            f"k1 needs low and high (bounds of p_sampler / p_trainer), k2 and k3 only high; got {statistic!r}, low={low}."
        )
    if not high > (low or 0.0) or (low is not None and not low > 0):
        raise ValueError(f"reject_mismatch needs 0 < low < high, got low={low}, high={high}.")
    if statistic == "k1" and level == "sequence_max":
        raise ValueError(
            "The maximum of k1 has no lower bound to speak of: use k2 or k3 with 'sequence_max'."
        )
    check("reject_mismatch", denominator)

    def f(signal, context, *, low, high):
        rollout = context.rollout
        gap = jnp.clip(masked.gap(rollout.old_logp, rollout.as_sampled(), rollout.mask), -20.0, 20.0)
        k = LEVELS[level](STATISTICS[statistic](gap), rollout.mask)
        bound = lambda x: jnp.asarray(x, k.dtype)
        if statistic == "k1":
            kept = (k >= jnp.log(bound(low))) & (k <= jnp.log(bound(high)))
        else:
            kept = k <= bound(high)
        kept = jnp.broadcast_to(kept, gap.shape)
        return keep_tokens(signal, kept, denominator).note(context, kept=masked.mean(kept, rollout.mask))

    return tunable("reject_mismatch", f, {"low": low, "high": high}, writes=writes(denominator))
