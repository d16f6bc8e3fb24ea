"""DGPO, "Distribution Guided Policy Optimization for Fine Grained Credit Assignment" (arXiv 2605.03327).

    d_it = clip(1 - sum_v sqrt(p_v q_v), 0, 1)         squared Hellinger distance of the policy p to the reference q
    s_it = d_it clip(H_it / log V, 0, 1)^kappa,   w_it = L_i softmax over the row's valid tokens of s / tau,   A' = A w

All constants. The weights of a row average to 1. Defaults kappa 1, tau 0.5 (paper: 0.5 to 1). From an independent implementation;
meant instead of a KL term, not beside one. Needs the reference policy's logits, computed chunk by chunk.
"""

from __future__ import annotations

import math

import jax.numpy as jnp
from jaxtyping import Array

from entjax import features, masked, vocab
from entjax.control import Controller, Target
from entjax.transform import Transform, is_dynamic, tunable
from entjax.vocab import Row


def entropy_share(row: Row) -> Array:
    """H / log V, the share of the largest possible entropy."""
    return jnp.clip(vocab.entropy(row) / math.log(max(row.logits.shape[-1], 2)), 0, 1)


def dgpo(*, kappa: Target | Controller = 1.0, tau: Target | Controller = 0.5) -> Transform:
    """Redistributes a row's advantage to uncertain tokens on which the policy has left the reference."""
    if not is_dynamic(kappa) and not kappa >= 0:
        raise ValueError(f"dgpo needs kappa >= 0, got {kappa}.")
    if not is_dynamic(tau) and not tau > 0:
        raise ValueError(f"dgpo needs tau > 0, got {tau}.")

    def f(signal, context, *, kappa, tau):
        mask, advantage = signal.mask, signal.advantage
        as_value = lambda x: jnp.asarray(x, advantage.dtype)
        d = masked.keep(context.stats["hellinger"], mask).astype(advantage.dtype)
        h = masked.keep(context.stats["entropy_share"], mask).astype(advantage.dtype)
        s = d * h ** as_value(kappa)
        length = masked.count(mask, axis=1, keepdims=True, dtype=advantage.dtype)
        w = length * masked.softmax(s / as_value(tau), mask, axis=1)
        signal = signal.note(context, divergence=masked.mean(d, mask), weight_max=masked.maximum(w, mask))
        return signal.replace(advantage=masked.keep(advantage * w, mask))

    reads = {"hellinger": features.hellinger, "entropy_share": entropy_share}
    return tunable("dgpo", f, {"kappa": kappa, "tau": tau}, reads=reads, writes={"advantage"})
