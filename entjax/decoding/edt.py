"""Entropy-based dynamic temperature (EDT, arXiv 2403.14541): cool where the model is sure, warm where it is not.

    T = T0 N^(theta / H),  N = 0.8

H is the model's entropy in nats at temperature 1, so T < T0, rising with H. Below H = 1e-5 or T = 1e-3 the token is the mode.
T0 of 0.1 to 1 and theta of 0.1 to 1 are tuned for each task. Written after the formula; no released code.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from entjax.decoding.greedy import mode_only
from entjax.transform import Transform

SURE = 1e-5  # nats
COLD = 1e-3


class EDT(NamedTuple):
    base: Float[Array, ""]
    theta: Float[Array, ""]


def edt_temperature(entropy: Float[Array, ...], base, theta, n: float = 0.8) -> Float[Array, ...]:
    """T for every entropy; 0, which means the mode, where the model is sure."""
    sure = entropy < SURE
    exponent = theta / jnp.where(sure, 1, entropy)
    return jnp.where(sure, 0, base * jnp.power(jnp.asarray(n, entropy.dtype), exponent))


def edt(base: float = 1.0, theta: float = 0.5) -> Transform:
    """Sample at EDT's temperature, which is that of the model's logits whatever the temperature of the policy."""
    if not base > 0:
        raise ValueError(f"edt() needs base > 0, got {base}.")
    if not theta >= 0:
        raise ValueError(f"edt() needs theta >= 0, got {theta}.")

    def init(logits):
        return EDT(jnp.asarray(base, logits.dtype), jnp.asarray(theta, logits.dtype))

    return Transform("edt", init, _update, hyper={"base": base, "theta": theta})


def _update(logits, state, context):
    wanted = edt_temperature(context.model_entropy, state.base, state.theta)
    cold = wanted < COLD
    factor = context.temperature / jnp.where(cold, 1, wanted)
    return jnp.where(cold[:, None], mode_only(logits), logits * factor[:, None]), state
