"""No clip range: every ratio that a surrogate can compute lies inside.

    r in [0, e^20]

20 is where `surrogates.ratio` holds the log-ratio; a finite bound keeps the Signal finite.
"""

from __future__ import annotations

import jax.numpy as jnp

from entjax.surrogates import MAX_LOG_RATIO
from entjax.transform import Transform, stateless


def unclipped() -> Transform:
    """The importance-weighted policy gradient: `ppo_clip` becomes r A, `cispo` sg[r] A log pi."""

    def f(signal, context):
        high = jnp.full_like(signal.clip_high, jnp.exp(jnp.asarray(MAX_LOG_RATIO, signal.clip_high.dtype)))
        return signal.replace(clip_low=jnp.zeros_like(signal.clip_low), clip_high=high)

    return stateless("unclipped", f, writes={"clip_low", "clip_high"}, owns={"clip"})
