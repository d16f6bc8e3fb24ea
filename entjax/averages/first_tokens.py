"""First tokens: the mean over the beginnings of the completions, for curricula over their length (arXiv 2605.16826).

    scale_it = c_it / sum c,    c_it = 1 for the first L valid tokens of a row

`length` may be a schedule or a controller: `sft.length_curriculum(floor)` lets L grow only while the policy still has entropy.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from entjax import masked, vocab
from entjax.control import Controller, Target
from entjax.transform import Transform, is_dynamic, tunable


def first_tokens(length: Target | Controller) -> Transform:
    """Token mean over the first `length` tokens of every row."""
    fixed: Any = length
    if not is_dynamic(length) and not fixed >= 1:
        raise ValueError(f"first_tokens needs length >= 1, got {length}.")

    def f(signal, context, *, length):
        inside = signal.mask & (jnp.cumsum(signal.mask, axis=-1, dtype=jnp.int32) <= length)
        ones = inside.astype(signal.scale.dtype)
        return signal.replace(scale=ones / jnp.maximum(masked.count(inside, dtype=ones.dtype), 1))

    reads = {"entropy": vocab.entropy} if isinstance(length, Controller) else {}
    return tunable("first_tokens", f, {"length": length}, reads=reads, writes={"scale"}, owns={"scale"})
