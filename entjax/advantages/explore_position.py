"""Position bonus of "From Trial-and-Error to Improvement: ... LLM Exploration Mechanisms in RLVR" (arXiv 2508.07534).

    r_t = t / L (t = 0 the first token),  b_t = min(alpha sigmoid(15 (r_t - 0.5)), 0.5 |A_t|),  A'_t = A_t + sign(A_t) b_t

Late tokens count more. Default alpha 0.1 (script; a logged run 0.05). The authors apply it in training steps 200 < step < 300
only: `during(201, 300, explore_position())` in a `per_rollout` chain. Additive: put it after rules that scale the advantage.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from entjax import masked
from entjax.control import Controller, Target
from entjax.transform import Transform, is_dynamic, tunable


def explore_position(*, alpha: Target | Controller = 0.1) -> Transform:
    """Adds up to half of |A| in the advantage's own direction, towards the end of the answer."""
    if not is_dynamic(alpha) and not alpha >= 0:
        raise ValueError(f"explore_position needs alpha >= 0, got {alpha}.")

    def f(signal, context, *, alpha):
        advantage = masked.keep(signal.advantage, signal.mask)
        ones = signal.mask.astype(advantage.dtype)
        length = jnp.maximum(ones.sum(1, keepdims=True), 1)
        r = (jnp.cumsum(ones, axis=1) - 1) / length
        rising = jnp.asarray(alpha, advantage.dtype) * jax.nn.sigmoid(15 * (r - 0.5))
        bonus = jnp.minimum(rising, 0.5 * jnp.abs(advantage))
        return signal.replace(advantage=advantage + masked.keep(jnp.sign(advantage) * bonus, signal.mask))

    return tunable("explore_position", f, {"alpha": alpha}, writes={"advantage"})
