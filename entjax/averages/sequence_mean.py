"""Sequence means: every sequence with a valid token weighs the same (n' of them; n_i valid tokens in sequence i).

    sequence_mean_token_mean   scale_it = m_it / (n_i n')        GRPO, GSPO: a token of a long sequence weighs less
    sequence_mean_token_sum    scale_it = m_it / n'              long sequences weigh more; with `gspo` this is LUSPO

Empty sequences do not count (verl since 2026; older forks and TRL divide by all rows). `sequences` fixes n': the number of
sequences of a larger batch of which this one is a part, or of the batch before some were dropped.
"""

from __future__ import annotations

import jax.numpy as jnp

from entjax import masked
from entjax.transform import Transform, tunable


def sequence_mean_token_mean(*, sequences: int | None = None) -> Transform:
    """The mean over sequences of the mean over their tokens."""
    return _sequence_mean("sequence_mean_token_mean", sequences, lambda n: jnp.maximum(n, 1))


def sequence_mean_token_sum(*, sequences: int | None = None) -> Transform:
    """The mean over sequences of the sum over their tokens."""
    return _sequence_mean("sequence_mean_token_sum", sequences, jnp.ones_like)


def _sequence_mean(name: str, sequences: int | None, length) -> Transform:
    if sequences is not None and not sequences > 0:
        raise ValueError(f"{name}(sequences=...) is a denominator and must be positive, got {sequences}.")

    def f(signal, context, *, sequences):
        ones = signal.mask.astype(signal.scale.dtype)
        n = masked.count(signal.mask, axis=1, keepdims=True, dtype=ones.dtype)
        rows = jnp.maximum((n > 0).astype(ones.dtype).sum(), 1) if sequences is None else sequences
        return signal.replace(scale=ones / length(n) / jnp.asarray(rows, ones.dtype))

    return tunable(name, f, {"sequences": sequences}, writes={"scale"}, owns={"scale"})
