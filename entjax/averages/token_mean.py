"""Token mean: every valid token of the batch weighs the same (DAPO).

scale_it = m_it / sum m
"""

from __future__ import annotations

from entjax import masked
from entjax.transform import Transform, stateless


def token_mean() -> Transform:
    """DAPO's average; one long sequence weighs as much as its tokens."""

    def f(signal, context):
        ones = signal.mask.astype(signal.scale.dtype)
        n = masked.count(signal.mask, dtype=ones.dtype)
        return signal.replace(scale=ones / (n + (n == 0).astype(ones.dtype)))

    return stateless("token_mean", f, writes={"scale"}, owns={"scale"})
