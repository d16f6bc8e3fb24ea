"""Divergence from the reference policy over the whole vocabulary: no sampling noise, at the price of the reference's logits.

    reverse: loss += beta KL(pi || ref) = beta sum_v p (log p - log q)         mode-seeking, what RL uses
    forward: loss += beta KL(ref || pi) = beta sum_v q (log q - log p)         mass-covering: keeps the reference's support
    hellinger: loss += beta (1 - sum_v sqrt(p q))                              the squared Hellinger distance, at most 1

The logits of both policies exist for one chunk of tokens at a time. Default beta = 1e-3, direction "reverse". A controller as
`coef` is fed with the mean KL (negative gains hold it at a target).
"""

from __future__ import annotations

import jax.numpy as jnp

from entjax import features, masked
from entjax.control import Controller, Target
from entjax.transform import Transform, tunable


def full_kl(coef: Target | Controller = 1e-3, *, direction: str = "reverse") -> Transform:
    """beta times the exact divergence per token."""
    directions = {
        "reverse": ("reverse_kl", features.reverse_kl),
        "forward": ("forward_kl", features.forward_kl),
        "hellinger": ("hellinger", features.hellinger),
    }
    if direction not in directions:
        raise ValueError(f"full_kl's direction must be one of {', '.join(directions)}, got {direction!r}.")
    name, feature = directions[direction]

    def f(signal, context, *, coef):
        return signal.add_term(name, jnp.asarray(coef, signal.weight.dtype) * jnp.ones_like(signal.weight))

    return tunable(
        "full_kl",
        f,
        {"coef": coef},
        measure=lambda context: masked.mean(context.stats[name], context.rollout.mask),
        reads={name: feature} if isinstance(coef, Controller) else {},
        terms={name: feature},
        writes={"coef"},
        owns={"kl"} if isinstance(coef, Controller) else (),
    )
