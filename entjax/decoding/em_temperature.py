"""The adaptive temperature of EM-INF (arXiv 2505.15134): cool each row until its entropy has fallen to a share of itself.

    target = max(delta, rho H0);  T in [0.01, 1] by bisection until |H(logits / T) - target| < tol;  T = 1 where H0 <= delta

H = -sum p log(p + 1e-9). Unlike EM-INF it keeps the order of the tokens. Defaults: rho 0.85 (script; the code falls back
to 0.2), delta 1e-5, tol 0.1 nats, which is loose: the search stops at the first T inside the band.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from entjax.transform import Transform

COLDEST, ROUNDS, TINY = 0.01, 100, 1e-9


class EMTemperature(NamedTuple):
    ratio: Float[Array, ""]
    threshold: Float[Array, ""]
    tolerance: Float[Array, ""]


def entropy_temperature(logits: Float[Array, "B V"], settings: EMTemperature) -> Float[Array, " B"]:
    """The temperature of every row."""

    def entropy(t):
        p = jax.nn.softmax(logits / t[:, None], axis=-1)
        return -jnp.sum(p * jnp.log(p + TINY), axis=-1)

    one = jnp.ones(logits.shape[0], logits.dtype)
    before = entropy(one)
    target = jnp.maximum(settings.threshold, settings.ratio * before)

    def goes_on(carry):
        count, _, _, found = carry
        return (count < ROUNDS) & jnp.any(jnp.isnan(found))

    def halve(carry):
        count, low, high, found = carry
        middle = (low + high) / 2
        gap = entropy(middle) - target
        found = jnp.where(jnp.isnan(found) & (jnp.abs(gap) < settings.tolerance), middle, found)
        return count + 1, jnp.where(gap > 0, low, middle), jnp.where(gap > 0, middle, high), found

    found = jnp.where(before <= settings.threshold, one, jnp.nan)
    start = (jnp.zeros((), jnp.int32), one * COLDEST, one, found)
    _, low, high, found = jax.lax.while_loop(goes_on, halve, start)
    return jnp.where(jnp.isnan(found), (low + high) / 2, found)


def em_temperature(ratio: float = 0.85, threshold: float = 1e-5, tolerance: float = 0.1) -> Transform:
    """Divide the logits of each row by the temperature at which `ratio` of its entropy is left."""
    if not 0 < ratio <= 1:
        raise ValueError(f"em_temperature() needs 0 < ratio <= 1, got {ratio}.")
    if not (threshold >= 0 and tolerance > 0):
        raise ValueError(
            f"em_temperature() needs threshold >= 0 and tolerance > 0, got {threshold} and {tolerance}."
        )

    def init(logits):
        return EMTemperature(*(jnp.asarray(x, logits.dtype) for x in (ratio, threshold, tolerance)))

    hyper = {"ratio": ratio, "threshold": threshold, "tolerance": tolerance}
    return Transform("em_temperature", init, _update, hyper=hyper)


def _update(logits, state, context):
    return logits / entropy_temperature(logits, state)[:, None], state
