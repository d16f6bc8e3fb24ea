"""HAPO's asymmetric adaptive clip (arXiv 2509.16591): the range widens where the token's nature asks for it.

    h <= 0:  eps_low'  = eps_low (1 - alpha h)        h > 0:  eps_high' = eps_high (1 + alpha h)
    clip_low = 1 - eps_low',   clip_high = 1 + eps_high'

h is the normalised entropy of `advantages.hapo`, of the current policy. Defaults 0.2 / 0.2, alpha 1, pivot 0.8 (recipe). With the
released sign (`sign_fix=False`) h >= 0 and only the upper side ever moves.
"""

from __future__ import annotations

import jax.numpy as jnp

from entjax import vocab
from entjax.advantages.hapo import check_pivot, normalized_entropy
from entjax.control import Controller, Target
from entjax.transform import Transform, is_dynamic, tunable


def hapo(
    *,
    low: Target | Controller = 0.2,
    high: Target | Controller = 0.2,
    alpha: Target | Controller = 1.0,
    pivot: float = 0.8,
    sign_fix: bool = True,
) -> Transform:
    """Wider on the left for certain tokens, wider on the right for uncertain ones."""
    hyper = {"low": low, "high": high, "alpha": alpha}
    for name, value in hyper.items():
        if not is_dynamic(value) and not value >= 0:
            raise ValueError(f"clips.hapo needs {name} >= 0, got {value}.")
    check_pivot(pivot)

    def f(signal, context, *, low, high, alpha):
        h, _ = normalized_entropy(context.stats["entropy"], signal.mask, pivot, sign_fix)
        h = h.astype(signal.clip_low.dtype)
        as_value = lambda x: jnp.asarray(x, h.dtype)
        below = as_value(low) * (1 - as_value(alpha) * jnp.where(h <= 0, h, 0))
        above = as_value(high) * (1 + as_value(alpha) * jnp.where(h > 0, h, 0))
        return signal.replace(clip_low=1 - below, clip_high=1 + above)

    about = {"reads": {"entropy": vocab.entropy}, "writes": {"clip_low", "clip_high"}, "owns": {"clip"}}
    return tunable("hapo_clip", f, hyper, **about)
