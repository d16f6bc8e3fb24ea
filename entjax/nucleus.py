"""The nucleus of a policy, found without sorting the vocabulary: by five to ten sums over it.

    keep v  <=>  sum over u with p_u > p_v of p_u  <  p

Equally likely tokens stand or fall together, so that the result does not depend on the order of the vocabulary.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

ROW = 2**14  # tokens of a vocabulary whose rows a CPU searches one at a time


def nucleus(
    log_probs: Float[Array, "... V"], p: float | Float[Array, ""], include_crossing: bool = True
) -> Bool[Array, "... V"]:
    """The most likely tokens whose mass stays below p; with `include_crossing` also the one that reaches it."""
    log_probs = jax.lax.stop_gradient(log_probs)
    least = functools.partial(_least, p=p, include_crossing=include_crossing)

    def by_rows(log_probs):
        found = jax.lax.map(least, log_probs.reshape(-1, log_probs.shape[-1]))
        return found.reshape(*log_probs.shape[:-1], 1)

    if log_probs.shape[-1] < ROW:
        return log_probs >= least(log_probs)
    # a CPU goes over one row again and again in its cache, over all of them in its memory
    return log_probs >= jax.lax.platform_dependent(log_probs, cpu=by_rows, default=least)


def _least(
    log_probs: Float[Array, "... V"], p: float | Float[Array, ""], include_crossing: bool
) -> Float[Array, "... 1"]:
    """The log-prob of the nucleus' least likely token; inf for an empty one.

    Tokens of mass >= high hold less than p together; with those of the next lower mass, p or more.
    A bracket low <= crossing < high closes in on a log scale, by interpolation of the square root of the mass under it (close to
    a line for language models) to one token above the crossing. The end that stays loses weight, the more the less the other
    one gained (Anderson and Bjorck's rule). No token has a mass between `below` and `high`: the search ends as soon as the token
    at `below` carries what is missing or low reaches it, after five to ten passes instead of one for each bit. Tokens of mass
    (1 - p) / V or less hold at most 1 - p together: the search starts above them.
    """
    mass = jnp.exp(log_probs)
    rest = jnp.maximum(1 - p, jnp.finfo(mass.dtype).eps).astype(mass.dtype)  # what may be left out
    full = lambda x: jnp.full((*mass.shape[:-1], 1), x, mass.dtype)

    def under(cut):
        left = jnp.where(mass >= cut, 0, mass)  # once for both
        return jnp.sum(left, axis=-1, keepdims=True), jnp.max(left, axis=-1, keepdims=True)

    def searching(state):
        low, _, below, _, under_high, *_ = state
        return (low < below) & (below < under_high - rest)  # not for NaN

    def closer(state):
        low, high, below, under_low, under_high, weight_low, weight_high = state
        open_ = searching(state)  # others of the batch still may be when this row is done
        goal = jnp.sqrt(rest + below)
        from_low, to_high = goal - jnp.sqrt(under_low), jnp.sqrt(under_high) - goal
        part = weight_low * from_low / (weight_low * from_low + weight_high * to_high)
        part = jnp.where((part > 0) & (part < 1), part, 0.5)  # where rounding is all that is left
        guess = low * (high / low) ** part
        cut = jnp.where(open_ & (guess > low), jnp.minimum(guess, below), below)
        left, largest = under(cut)
        fits = open_ & (left > rest)  # the crossing lies under the cut
        gained = 1 - (jnp.sqrt(left) - goal) / jnp.where(fits, to_high, -from_low)
        less = jnp.fmax(0.25, jnp.fmin(gained, 1))
        one = jnp.ones_like(less)
        above = (low, cut, largest, under_low, left, weight_low * less, one)
        beneath = (cut, high, below, left, under_high, one, weight_high * less)
        return tuple(jnp.where(fits, x, y) for x, y in zip(above, beneath))

    top = jnp.max(mass, axis=-1, keepdims=True)
    low = full(rest / mass.shape[-1] / math.e)
    start = (low, 1.01 * top, top, full(0.0), full(1.0), full(1.0), full(1.0))
    _, high, below, *_ = jax.lax.while_loop(lambda state: jnp.any(searching(state)), closer, start)
    smallest = below if include_crossing else high
    return jnp.min(jnp.where(mass >= smallest, log_probs, jnp.inf), axis=-1, keepdims=True)
