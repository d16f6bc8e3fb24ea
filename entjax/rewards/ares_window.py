"""ARES' count of reasoning tokens that open a stretch of high entropy (arXiv 2510.08457).

    wbar_t = mean of H over the next w tokens,   N = #{t: trigger_t, wbar_t >= threshold}           complete windows only

A trigger is a position whose most likely token is one of a fixed list of reasoning words. Next to N: the low count and the soft
cost sum of max(wbar - threshold, 0). The percentile of wbar over all positions of an answer sets the next threshold; where a
window is incomplete it uses the mean of the windows before it, or the first token's entropy where there is none.

The released code knows entropies from the 10 largest log-probs only: `truncated_entropy`.
"""

from __future__ import annotations

import functools
import zlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from entjax import masked, vocab


class WindowCount(NamedTuple):
    n_high: Float[Array, " B"]
    n_low: Float[Array, " B"]
    soft_cost: Float[Array, " B"]


def window_means(
    entropy: Float[Array, "B T"], mask: Bool[Array, "B T"], window: int
) -> tuple[Float[Array, "B T"], Bool[Array, "B T"]]:
    """wbar and whether all of its w tokens are valid."""
    ahead = lambda x, k: jnp.pad(x[:, k:], ((0, 0), (0, min(k, x.shape[1]))))
    x = masked.keep(entropy, mask)
    total = sum(ahead(x, k) for k in range(1, window + 1))
    complete = functools.reduce(jnp.logical_and, (ahead(mask, k) for k in range(1, window + 1)), mask)
    return total / window, complete


def window_entropy_count(
    entropy: Float[Array, "B T"],
    trigger: Bool[Array, "B T"],
    mask: Bool[Array, "B T"],
    threshold: Float[Array, ""] | float,
    window: int = 4,
) -> WindowCount:
    """How many triggers of an answer are followed by high, and by low, entropy."""
    means, complete = window_means(entropy, mask, window)
    counted = trigger & complete
    cut = jnp.asarray(threshold, means.dtype)
    high = counted & (means >= cut)
    count = lambda which: masked.count(which, axis=1, dtype=means.dtype)
    return WindowCount(count(high), count(counted & ~high), masked.total(means - cut, high, axis=1))


def window_percentile(
    entropy: Float[Array, "B T"], mask: Bool[Array, "B T"], percentile: float = 95.0, window: int = 4
) -> Float[Array, " B"]:
    """Linear percentile of wbar over the positions of each answer."""
    means, complete = window_means(entropy, mask, window)
    so_far = jnp.cumsum(masked.keep(means, complete), axis=1)
    n = jnp.cumsum(complete.astype(means.dtype), axis=1)
    first = mask & (jnp.cumsum(mask.astype(jnp.int32), axis=1) == 1)
    own = masked.total(entropy, first, axis=1, keepdims=True)
    before = jnp.where(n > 0, so_far / jnp.maximum(n, 1), own)
    return masked.quantile(jnp.where(complete, means, before), mask, percentile / 100, axis=1)


def truncated_entropy(log_probs: Float[Array, "... V"], k: int = 10, tail: bool = True) -> Float[Array, ...]:
    """-sum over the k largest of p log p; with `tail` the rest counts as one token, -q log max(q, 1e-12)."""
    top = jax.lax.top_k(log_probs, min(k, log_probs.shape[-1]))[0]
    p = jnp.exp(top)
    entropy = -jnp.sum(p * top, axis=-1)
    if not tail:
        return entropy
    rest = jnp.clip(1 - p.sum(-1), 0, 1)
    return entropy - rest * jnp.log(jnp.maximum(rest, 1e-12))


def argmax_name(token_ids: tuple[int, ...]) -> str:
    """The key of the feature `argmax_in(token_ids)`."""
    return f"argmax_in_{zlib.crc32(repr(token_ids).encode()):08x}"


@functools.lru_cache(None)
def argmax_in(token_ids: tuple[int, ...]) -> vocab.Feature:
    """1 where the most likely token is one of `token_ids`, else 0."""

    def feature(row: vocab.Row) -> Array:
        likely = jnp.argmax(row.logits, axis=-1).astype(jnp.int32)
        return jnp.isin(likely, jnp.asarray(token_ids, jnp.int32)).astype(row.logits.dtype)

    return feature


@functools.lru_cache(None)
def truncated(k: int, tail: bool) -> vocab.Feature:
    """`truncated_entropy` of the policy."""
    return lambda row: truncated_entropy(row.log_probs, k, tail)
