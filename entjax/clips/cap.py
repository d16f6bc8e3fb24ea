"""Only an upper bound of the ratio, as an absolute number (ScaleRL's and TRL's CISPO).

    r in [0, maximum]

Default 5.0, the cap (`epsilon_high`) with which TRL runs CISPO. Mind the difference: `asymmetric(high=5.0)` would be r <= 6.
"""

from __future__ import annotations

import jax.numpy as jnp

from entjax.conflicts import steered
from entjax.control import Controller, Target
from entjax.transform import Transform, is_dynamic, tunable


def cap(maximum: Target | Controller = 5.0) -> Transform:
    """Ratios above `maximum` are clipped; none is too small."""
    if not is_dynamic(maximum) and not maximum > 0:
        raise ValueError(f"cap needs maximum > 0, got {maximum}.")

    def f(signal, context, *, maximum):
        high = jnp.full_like(signal.clip_high, jnp.asarray(maximum, signal.clip_high.dtype))
        return signal.replace(clip_low=jnp.zeros_like(signal.clip_low), clip_high=high)

    return tunable(
        "cap", f, {"maximum": maximum}, writes={"clip_low", "clip_high"}, owns={"clip", *steered(maximum)}
    )
