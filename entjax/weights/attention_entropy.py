"""Attention-entropy weights: from focused tokens (anchors) to diffuse ones (explorers) ("Not All Tokens Learn Alike").

    H_t = -sum_j a_tj log a_tj / log(context length),  a = attention of one middle layer, averaged over its heads
    rho_t in [0, 1] = rank of H_t among the valid tokens of the batch,   w_t = 1 + lambda (2 rho_t - 1),   mean weight 1

lambda runs from -lambda0 (anchors first) to +lambda0 (explorers last): strength=control.linear(-0.5, 0.5, steps). The paper's
schedule is not recoverable: this form and lambda0 = 0.5 are a reconstruction; the signal and the 20% sets are the paper's.
The rollout must hold extra["attention_entropy"] [B, T]: entjax.attention_entropy.of_model(model, rollout.tokens).
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array

from entjax import masked
from entjax.conflicts import steered
from entjax.control import Controller, Target
from entjax.transform import Transform, is_dynamic, tunable


def attention_entropy(strength: Target | Controller = 0.5) -> Transform:
    """Weights linear in the rank of the attention entropy; strength > 0 favours diffuse tokens."""
    if not is_dynamic(strength) and not -1 <= strength <= 1:
        raise ValueError(f"attention_entropy needs -1 <= strength <= 1 (weights >= 0), got {strength}.")

    def f(signal, context, *, strength):
        entropy, mask = masked.keep(context.rollout.extra["attention_entropy"], signal.mask), signal.mask
        rho = _middle_rank(entropy, mask)
        weight = 1.0 + jnp.asarray(strength, rho.dtype) * (2.0 * rho - 1.0)
        weight = jnp.where(mask, weight, 1).astype(signal.weight.dtype)
        mean = masked.mean(entropy, mask)
        return signal.replace(weight=signal.weight * weight).note(context, mean=mean)

    about = {"needs": {"attention_entropy"}, "writes": {"weight"}, "owns": steered(strength)}
    return tunable("attention_entropy", f, {"strength": strength}, **about)


def _middle_rank(x: Array, mask: Array) -> Array:
    """Rank / (n - 1) with ties in their middle: the mean over valid tokens is 1/2, whatever the ties; 1/2 for one token."""
    flat = jnp.sort(jnp.where(mask, x, jnp.inf).ravel())
    place = lambda side: jnp.searchsorted(flat, x.ravel(), side=side).reshape(x.shape).astype(x.dtype)
    n = masked.count(mask, dtype=x.dtype)
    rank = 0.5 * (place("left") + jnp.minimum(place("right"), n) - 1.0)
    return jnp.where(n > 1, rank / jnp.maximum(n - 1, 1), 0.5)
