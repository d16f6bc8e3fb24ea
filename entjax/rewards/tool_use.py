"""SPEAR's tool-use bonus, which fades as training goes on (arXiv 2509.22601).

    R <- R + c(step) min(b n_tools, cap),   c(step) = (1 + cos(pi step / 200)) / 2, 0 after step 200

The number of tool calls comes in extra["tool_calls"] [B]; right and wrong answers earn it alike. Defaults b 0.1, cap 1.
"""

from __future__ import annotations

import jax.numpy as jnp

from entjax.control import Controller, Target, cosine
from entjax.transform import Transform, tunable


def tool_use(
    coef: Target | Controller | None = None, *, per_call: float = 0.1, cap: float = 1.0
) -> Transform:
    """Reward tool calls; `coef` is c, by default the cosine decay over 200 steps."""
    coef = cosine(1.0, 0.0, 200) if coef is None else coef
    if per_call < 0 or cap < 0:
        raise ValueError(f"per_call and cap must be >= 0, got per_call={per_call}, cap={cap}.")

    def f(signal, context, *, coef, **_):
        dtype = signal.reward.dtype
        bonus = jnp.minimum(per_call * context.rollout.extra["tool_calls"].astype(dtype), cap)
        return signal.replace(reward=signal.reward + jnp.asarray(coef, dtype) * bonus)

    hyper = {"coef": coef, "per_call": per_call, "cap": cap}
    return tunable("tool_use", f, hyper, needs={"tool_calls"}, writes={"reward"})
