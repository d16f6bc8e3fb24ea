"""EntroPIC's balance of positives and negatives at sequence level, as in Entrocraft's repository (arXiv 2511.15248).

    A <- (1 + alpha) A where A > 0,   (1 - alpha) A elsewhere,   alpha = I + k_p e,   then I <- I + k_i e,   e = H - target

H is the measured entropy. Too much entropy reinforces positives, too little negatives. Defaults k_p 1, k_i 0.01, and no bound
on alpha (released); `bound` keeps alpha and I within +-bound, so that I recovers at once. The paper's form, on
high-probability tokens and bounded by 1, is a method of its own. Needs both signs in the batch. The released
function starts from the raw reward of +-1: put raw() before it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from entjax.control import Target
from entjax.transform import Transform, measured_entropy, stateful


class Integral(NamedTuple):
    integral: Float[Array, ""]


def entropic_balance(
    target: Target, *, kp: float = 1.0, ki: float = 0.01, bound: float = math.inf
) -> Transform:
    """PI control of the entropy through the balance of positive and negative advantages."""
    if kp < 0 or ki < 0 or not bound > 0:
        raise ValueError(f"Gains must be >= 0 and bound > 0, got kp={kp}, ki={ki}, bound={bound}.")

    def f(signal, state, context, *, target):
        error = measured_entropy(context).astype(jnp.float32) - target
        alpha = jnp.clip(state.integral + kp * error, -bound, bound)
        integral = jnp.clip(state.integral + ki * error, -bound, bound)
        a = signal.advantage
        scale = jnp.where(a > 0, 1 + alpha, 1 - alpha).astype(a.dtype)
        signal = signal.note(context, alpha=alpha, error=error)
        return signal.replace(advantage=scale * a), Integral(integral)

    return stateful(
        "entropic_balance",
        lambda: Integral(jnp.zeros((), jnp.float32)),
        f,
        {"target": target},
        writes={"advantage"},
        owns={"entropy"},
    )
