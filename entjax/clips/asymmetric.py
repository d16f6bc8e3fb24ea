"""Clip range around 1, wider above than below (clip-higher; DAPO, arXiv 2503.14476).

    r in [1 - low, 1 + high]

Defaults 0.2 and 0.28 (DAPO); PPO and GRPO use 0.2 and 0.2, GSPO 3e-4 and 4e-4. Raising `high` lets unlikely tokens grow and
keeps entropy up; both may be schedules or controllers.
"""

from __future__ import annotations

import jax.numpy as jnp

from entjax.conflicts import steered
from entjax.control import Controller, Target
from entjax.transform import Transform, is_dynamic, tunable


def asymmetric(low: Target | Controller = 0.2, high: Target | Controller = 0.28) -> Transform:
    """Ratios below 1 - low or above 1 + high get no gradient (where the advantage pushes them further out)."""
    if not is_dynamic(low) and not 0 <= low <= 1:
        raise ValueError(f"asymmetric needs 0 <= low <= 1 (a ratio is never negative), got low={low}.")
    if not is_dynamic(high) and not high >= 0:
        raise ValueError(f"asymmetric needs high >= 0, got high={high}.")

    def f(signal, context, *, low, high):
        fill = lambda value: jnp.full_like(signal.clip_low, jnp.asarray(value, signal.clip_low.dtype))
        return signal.replace(clip_low=fill(1.0 - low), clip_high=fill(1.0 + high))

    return tunable(
        "asymmetric",
        f,
        {"low": low, "high": high},
        writes={"clip_low", "clip_high"},
        owns={"clip", *steered(low, high)},
    )
