"""Entropy-aware decoding (Stable Entropy Hypothesis, arXiv 2302.06784): greedy inside the zone of human text, sampling above it.

    zone at completion index t: mu(t) +- k sd(t);   mu, sd polynomials of the smoothed entropy of human text
    t > t0 and H_t > mu + k sd:  sample;            otherwise the most likely token

A row whose entropy stays below the zone for more than w steps goes back w + 1 steps and takes the next best token there:
`rollouts.back_off` finds such rows and tells this rule, whose state holds one changed position a row. H_t is the raw entropy of
the policy; only mu and sd come from smoothed curves. Defaults: GPT-2 XL on Wikipedia text, k 1, t0 5, w 5 (released scripts).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from entjax.decoding.greedy import mode_only
from entjax.decoding.select import exactly
from entjax.transform import Transform

NOWHERE = -1
MEAN = (2.87399, -0.00215, 0.0)  # nats; coefficients of 1, t, t^2
SPREAD = (0.97922, -0.00373, 2e-5)


class StableEntropy(NamedTuple):
    mean: tuple[Float[Array, ""], ...]
    spread: tuple[Float[Array, ""], ...]
    width: Float[Array, ""]
    start: Int[Array, ""]
    index: Int[Array, " B"]  # of the completion's token that a back-off changes, NOWHERE if none
    rank: Int[Array, " B"]  # which token the row takes there: 0 the most likely


def zone(index: Array, state: StableEntropy) -> tuple[Array, Array]:
    """The lower and the upper bound of the entropy at some indices of the completion."""
    t = index.astype(state.width.dtype)
    at = lambda coefficients: sum(c * t**i for i, c in enumerate(coefficients))
    middle, margin = at(state.mean), state.width * at(state.spread)
    return middle - margin, middle + margin


def stable_entropy(
    mean: Sequence[float] = MEAN, spread: Sequence[float] = SPREAD, *, width: float = 1.0, start: int = 5
) -> Transform:
    """Sample (from what the rules before it left) above the zone, after index `start`; elsewhere take the mode."""
    if not width >= 0:
        raise ValueError(f"stable_entropy() needs width >= 0, got {width}.")
    if not (mean and spread):
        raise ValueError("stable_entropy() needs at least one coefficient in `mean` and in `spread`.")

    def init(logits):
        numbers = lambda xs: tuple(jnp.asarray(x, logits.dtype) for x in xs)
        nowhere = jnp.full(logits.shape[0], NOWHERE, jnp.int32)
        width_ = jnp.asarray(width, logits.dtype)
        return StableEntropy(
            numbers(mean), numbers(spread), width_, jnp.asarray(start, jnp.int32), nowhere, nowhere
        )

    hyper = {"mean": tuple(mean), "spread": tuple(spread), "width": width, "start": start}
    return Transform("stable_entropy", init, _update, hyper=hyper)


def _update(logits, state, context):
    samples = (context.index > state.start) & (context.entropy > zone(context.index, state)[1])
    out = jnp.where(samples[:, None], logits, mode_only(logits))
    changed = context.index == state.index
    change = lambda out: jnp.where(changed[:, None], _ranked(logits, state.rank), out)
    return jax.lax.cond(jnp.any(changed), change, lambda out: out, out), state


def _ranked(logits, rank):
    """Only the token of that rank in each row, or the last one left when there are fewer."""
    left = jnp.sum(jnp.isfinite(logits), axis=-1, dtype=jnp.int32)
    rank = jnp.clip(rank, 0, left - 1)
    keep = exactly(logits, rank + 1) & ~exactly(logits, rank)
    return jnp.where(keep, logits, -jnp.inf)
