"""Rollout branching factor (arXiv 2508.07534): how many continuations the policy seriously considers.

rbf_t = smallest number of most likely tokens whose cumulative probability reaches top_p (the crossing token counts)
"""

from __future__ import annotations

import functools

import jax.numpy as jnp

from entjax.vocab import Feature


@functools.lru_cache(None)
def branching_factor(top_p: float = 0.95) -> Feature:
    """The feature (a float per token) for `vocab.features`; it sorts the vocabulary, so keep it for evaluations."""
    if not 0 < top_p <= 1:
        raise ValueError(f"branching_factor needs 0 < top_p <= 1, got {top_p}.")

    def feature(row):
        ordered = jnp.sort(row.probs, axis=-1, descending=True)
        before = jnp.cumsum(ordered, axis=-1) - ordered
        return jnp.sum((before < top_p).astype(ordered.dtype), axis=-1)

    return feature
