"""Entropy-gated length curriculum (arXiv 2605.16826): longer prefixes only while the student still has choices.

    train on the first L_m tokens;   on to L_{m+1} iff the held-out mean token entropy H_m >= H_min, else stay

A Controller: feed it the entropy on fresh text, it gives the length of the next step; after every `stage` steps it may climb. In
a run: averages.first_tokens(length_curriculum(...)). The paper's ladder runs from 128 to 4096; its H_min is not given.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from entjax.control import Controller

LADDER = (128, 256, 512, 1024, 2048, 4096)


class Stage(NamedTuple):
    """How many rungs were climbed, and how often the entropy was measured."""

    rung: Int[Array, ""]
    count: Int[Array, ""]


def length_curriculum(floor: float, lengths: Sequence[int] = LADDER, *, stage: int = 1) -> Controller:
    """Climb `lengths` while the entropy measured at the end of a stage is at least `floor` nats."""
    if not floor >= 0:
        raise ValueError(f"length_curriculum() needs floor >= 0, got {floor}.")
    if not lengths or list(lengths) != sorted(set(lengths)) or lengths[0] < 1:
        raise ValueError(f"length_curriculum() needs growing positive lengths, got {tuple(lengths)}.")
    if stage < 1:
        raise ValueError(f"length_curriculum() needs stage >= 1 measurements, got {stage}.")

    def update(entropy, state):
        trained = (state.count > 0) & (state.count % stage == 0)  # on this rung
        climbs = (trained & (jnp.asarray(entropy) >= floor)).astype(jnp.int32)
        rung = jnp.minimum(state.rung + climbs, len(lengths) - 1)
        return length_at(lengths, rung), Stage(rung, state.count + 1)

    zero = lambda: jnp.zeros((), jnp.int32)
    return Controller(lambda: Stage(zero(), zero()), update)


def length_at(lengths: Sequence[int], rung: Int[Array, ""]) -> Int[Array, ""]:
    """The length of a rung; `lengths[0]` before the first update."""
    return jnp.asarray(lengths, jnp.int32)[rung]


def first_tokens(mask: Bool[Array, "B T"], length: Int[Array, ""] | int) -> Bool[Array, "B T"]:
    """The mask of at most `length` valid tokens of every row."""
    return mask & (jnp.cumsum(mask, axis=-1, dtype=jnp.int32) <= length)
