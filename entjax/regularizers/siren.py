"""SIREN: hold the nucleus entropy of the peak tokens at its initial value ("Rethinking Entropy Regularization in Large Reasoning
Models"; code Linn3a/siren).

    H~_it = entropy of softmax restricted to the top-p nucleus and renormalised          1. where to explore in the vocabulary
    peak_it = 1[H~_it > q-quantile of H~_i]  (strict, per sequence)                      2. at which tokens
    H_agg = mean_i mean_{t in peak_i} H~_it     (a row without a peak counts 0)
    loss += c (H_agg - H_anchor)^2,    H_anchor = H_agg of the first update              3. self-anchored

Defaults: p = .8, q = .8, c = .005 (released script). The square is a coefficient 2 c (H_agg - H_anchor), decided before the
gradient on the whole batch: exact for any number of microbatches, where squares of microbatch means are biased by their variance.
The released code leaves the token that crosses p out of the nucleus (default); include_crossing=True keeps it, as the paper does.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from entjax import features, masked
from entjax.control import Target
from entjax.transform import Transform, stateful


class SirenState(NamedTuple):
    anchor: Float[Array, ""]
    anchored: Bool[Array, ""]


def siren(
    coef: Target = 0.005,
    *,
    top_p: float = 0.8,
    quantile: float = 0.8,
    anchor: float | None = None,
    include_crossing: bool = False,
) -> Transform:
    """Squared distance of the aggregated nucleus entropy from its anchor; a number as `anchor` fixes it."""
    if not 0.0 <= quantile < 1.0:
        raise ValueError(f"siren needs 0 <= quantile < 1, got {quantile}.")
    name = features.named("top_p_entropy", top_p, include_crossing)
    feature = features.top_p_entropy(top_p, include_crossing)

    def start():
        return SirenState(jnp.float32(0.0 if anchor is None else anchor), jnp.asarray(anchor is not None))

    def f(signal, state, context, *, coef):
        H, mask = context.stats[name], signal.mask
        threshold = masked.quantile(H, mask, quantile, axis=1, keepdims=True)
        peak = mask & (masked.wide(H) > threshold)
        scale = _row_means(peak, context.rollout.group, signal.scale.dtype)
        aggregate = jnp.sum(masked.keep(H, peak) * scale)
        goal = jnp.where(state.anchored, state.anchor, aggregate.astype(jnp.float32))
        gap = aggregate - goal.astype(aggregate.dtype)
        slope = 2 * jnp.asarray(coef, gap.dtype) * gap
        signal = signal.add_term(name, masked.keep(slope, peak), own_scale=scale)
        signal = signal.note(context, entropy=aggregate, anchor=goal, penalty=gap**2)
        return signal, SirenState(goal, jnp.asarray(True))

    return stateful(
        "siren",
        start,
        f,
        {"coef": coef},
        reads={name: feature},
        terms={name: feature},
        writes={"coef"},
        owns={"entropy"},
    )


def _row_means(peak: Array, group: Array, dtype) -> Array:
    """Averaging weights of mean over rows of the mean over a row's peaks; filler rows do not count."""
    kept = masked.count(peak, axis=1, keepdims=True, dtype=dtype)
    rows = jnp.maximum((group >= 0).astype(dtype).sum(), 1)
    return peak.astype(dtype) / (jnp.maximum(kept, 1) * rows)
