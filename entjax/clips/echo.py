"""ECHO's confidence clip (repository user683/ECHO): a tighter range for answers that end confidently.

    C_i = mean confidence over the last W tokens of row i, each in [0, 1] (W = 0: the whole row)
    eps_i = eps_min + (eps_max - eps_min) sigmoid(kappa (1 - C_i)),    ratio in [1 - eps_i, 1 + eps_i]

Confidence kinds as in `advantages.echo_shaping`. Defaults eps 0.05 to 0.2, kappa 4, W 16 (scripts). Since C <= 1 and kappa > 0,
eps never falls below the midpoint 0.125: eps_min is unreachable, as released. The authors use a dual clip of 3 beside it.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from entjax import masked
from entjax.advantages.echo_shaping import confidence_features, confidence_of
from entjax.control import Controller, Target
from entjax.transform import Transform, tunable


def echo(
    *,
    eps_min: float = 0.05,
    eps_max: float = 0.2,
    kappa: Target | Controller = 4.0,
    window: int = 16,
    confidence: str = "topk_prob",
    top_k: int = 5,
) -> Transform:
    """One symmetric clip range a row, from the confidence of its tail."""
    if not 0 <= eps_min <= eps_max:
        raise ValueError(
            f"clips.echo needs 0 <= eps_min <= eps_max, got eps_min={eps_min}, eps_max={eps_max}."
        )
    if window < 0:
        raise ValueError(f"window is a number of tokens (0: all of them), got {window}.")
    remembers = confidence_features(confidence, top_k)

    def f(signal, context, *, kappa):
        mask = signal.mask
        c = jnp.clip(confidence_of(context.rollout, mask, confidence, top_k), 0, 1)
        from_end = jnp.cumsum(mask[:, ::-1].astype(jnp.int32), axis=1)[:, ::-1]
        tail = mask & (from_end <= window) if window else mask
        c = masked.mean(c, tail, axis=1, keepdims=True).astype(signal.clip_low.dtype)
        eps = eps_min + (eps_max - eps_min) * jax.nn.sigmoid(jnp.asarray(kappa, c.dtype) * (1 - c))
        signal = signal.note(context, eps=masked.mean(eps[:, 0], jnp.any(mask, axis=1)))
        whole = jnp.broadcast_to(eps, mask.shape)
        return signal.replace(clip_low=1 - whole, clip_high=1 + whole)

    about = {"remembers": remembers, "writes": {"clip_low", "clip_high"}, "owns": {"clip"}}
    return tunable("echo_clip", f, {"kappa": kappa}, **about)
