"""Clip range in log space (GMPO, arXiv 2507.20673).

    log r in [-low, high]

Defaults 0.4 and 0.4, the paper's e^-0.4 to e^0.4, for `surrogates.gmpo`.
"""

from __future__ import annotations

import jax.numpy as jnp

from entjax.conflicts import steered
from entjax.control import Controller, Target
from entjax.transform import Transform, is_dynamic, tunable


def geometric(low: Target | Controller = 0.4, high: Target | Controller = 0.4) -> Transform:
    """Log-ratios outside [-low, high] are clipped."""
    for name, value in (("low", low), ("high", high)):
        if not is_dynamic(value) and not 0 <= value <= 20:
            raise ValueError(f"geometric needs 0 <= {name} <= 20 (nats), got {name}={value}.")

    def f(signal, context, *, low, high):
        fill = lambda value: jnp.full_like(
            signal.clip_low, jnp.exp(jnp.asarray(value, signal.clip_low.dtype))
        )
        return signal.replace(clip_low=fill(-low), clip_high=fill(high))

    return tunable(
        "geometric",
        f,
        {"low": low, "high": high},
        writes={"clip_low", "clip_high"},
        owns={"clip", *steered(low, high)},
    )
