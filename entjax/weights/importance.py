"""Truncated importance weights for the mismatch between sampler and trainer (TIS).

    d_t = log p_trainer - log p_sampler of the same behaviour policy, within +-20
    token      w_t = min(exp d_t, C)                 sequence   w_b = min(exp(sum_t d_t), C), the same at all tokens of the row

The sum goes over all sampled tokens, also those that a mask before it has left out.

Only the upper side is truncated; no gradient. With above="zero" a weight above C drops the token or sequence (TRL's "mask"
modes; TRL's default is level="sequence", above="zero", threshold=3.0). `normalize` divides by the mean weight: over tokens, or
over sequences that all count the same (0 for one without tokens). Default C = 2.0 (verl).
"""

from __future__ import annotations

import jax.numpy as jnp

from entjax import masked
from entjax.conflicts import steered
from entjax.control import Controller, Target
from entjax.surrogates import ratio
from entjax.transform import Transform, is_dynamic, tunable


def importance(
    level: str = "token",
    *,
    threshold: Target | Controller = 2.0,
    above: str = "truncate",
    normalize: bool = False,
) -> Transform:
    """Weight the surrogate by the trainer's probability over the sampler's."""
    if level not in ("token", "sequence"):
        raise ValueError(f"importance: level must be 'token' or 'sequence', got {level!r}.")
    if above not in ("truncate", "zero"):
        raise ValueError(f"importance: above must be 'truncate' or 'zero', got {above!r}.")
    if not is_dynamic(threshold) and not threshold > 0:
        raise ValueError(f"importance needs threshold > 0, got {threshold}.")

    def f(signal, context, *, threshold):
        rollout, mask = context.rollout, signal.mask
        gap = jnp.clip(masked.gap(rollout.old_logp, rollout.as_sampled(), rollout.mask), -20.0, 20.0)
        if level == "sequence":
            gap = jnp.broadcast_to(masked.total(gap, rollout.mask, axis=1, keepdims=True), gap.shape)
        weight = ratio(gap)
        bound = jnp.asarray(threshold, weight.dtype)
        over = mask & (weight > bound)
        weight = jnp.where(over, bound if above == "truncate" else 0, weight)
        mean = masked.mean(weight, mask)
        if level == "sequence":
            mean = masked.mean(masked.mean(weight, mask, axis=1), rollout.group >= 0)
        if normalize:
            weight = weight / jnp.where(mean > 0, mean, 1)
        weight = jnp.where(mask, weight, 1).astype(signal.weight.dtype)
        signal = signal.replace(weight=signal.weight * weight)
        return signal.note(context, mean=mean, over=masked.mean(over, mask))

    return tunable("importance", f, {"threshold": threshold}, writes={"weight"}, owns=steered(threshold))
