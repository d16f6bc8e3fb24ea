"""Temperature as a decoding rule: logits / T.

In a chain it changes only what is sampled. The temperature of the *policy*, which sampler and trainer share and which
the recorded log-probs and entropies refer to, is `Sampling.temperature`.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from entjax.transform import Transform


class Temperature(NamedTuple):
    value: Float[Array, ""]


def temperature(value: float) -> Transform:
    """Divide the logits by `value`; below 1 sharpens, above 1 flattens."""
    if not value > 0:
        raise ValueError(f"temperature() must be positive, got {value}; decoding.greedy() is the limit 0.")

    def init(logits):
        return Temperature(jnp.asarray(value, logits.dtype))

    return Transform("temperature", init, _update, hyper={"value": value})


def _update(logits, state, context):
    return logits / state.value, state
