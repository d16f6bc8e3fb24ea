"""Constant length: the token sum over a constant instead of the sequence's length (Dr. GRPO, arXiv 2503.20783).

    scale_it = m_it / (L n')        L = `length`, e.g. the longest completion that is allowed; n' sequences with a valid token

No length bias: a token weighs the same in a short and in a long answer. With `over_sequences=False` n' = 1: verl's
"seq-mean-token-sum-norm", which despite its name sums over sequences. L has no default on purpose: the padded width (verl's
default) would make the loss depend on how a batch was padded.
"""

from __future__ import annotations

import jax.numpy as jnp

from entjax import masked
from entjax.transform import Transform, tunable


def constant_length(length: float, *, over_sequences: bool = True) -> Transform:
    """Dr. GRPO's average: divide every sequence by the same length."""
    if not length > 0:
        raise ValueError(f"constant_length needs length > 0, got {length}.")

    def f(signal, context, *, length, over_sequences):
        ones = signal.mask.astype(signal.scale.dtype)
        rows = jnp.maximum(masked.count(signal.mask.any(1), dtype=ones.dtype), 1) if over_sequences else 1.0
        return signal.replace(scale=ones / rows / jnp.asarray(length, ones.dtype))

    hyper = {"length": length, "over_sequences": over_sequences}
    return tunable("constant_length", f, hyper, writes={"scale"}, owns={"scale"})
