"""DAPO's soft overlong punishment: a linear penalty in the last `buffer` tokens before the limit (arXiv 2503.14476).

    R <- R + max(-f, min(0, -(L - (L_max - buffer)) / buffer f))            L: number of sampled tokens

Defaults L_max 20480, buffer 4096, f 1. The released code has no lower bound, so a length beyond L_max (which should not occur)
costs more than f: `floor=False`.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from entjax import masked
from entjax.transform import Transform, tunable


def overlong_penalty(
    length: Float[Array, " B"], max_length: int, buffer: int, factor: float = 1.0, floor: bool = True
) -> Float[Array, " B"]:
    """What is added to the reward of an answer of `length` tokens; never positive."""
    penalty = jnp.minimum(-(length - (max_length - buffer)) / buffer * factor, 0)
    return jnp.maximum(penalty, -factor) if floor else penalty


def overlong(
    max_length: int = 20480, *, buffer: int = 4096, factor: float = 1.0, floor: bool = True
) -> Transform:
    """Overlong reward shaping in tokens."""
    if not 0 < buffer <= max_length:
        raise ValueError(
            f"overlong needs 0 < buffer <= max_length, got buffer={buffer}, max_length={max_length}."
        )
    if factor < 0:
        raise ValueError(f"factor must be >= 0, got {factor}.")

    def f(signal, context, **_):
        rollout, dtype = context.rollout, signal.reward.dtype
        length = masked.count(rollout.mask, axis=1, dtype=dtype)
        penalty = overlong_penalty(length, max_length, buffer, factor, floor)
        signal = signal.note(context, share=masked.mean(penalty < 0, rollout.group >= 0))
        return signal.replace(reward=signal.reward + penalty)

    hyper = {"max_length": max_length, "buffer": buffer, "factor": factor, "floor": floor}
    return tunable("overlong", f, hyper, writes={"reward"})
