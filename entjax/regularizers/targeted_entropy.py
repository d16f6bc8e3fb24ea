"""Targeted Entropy Regularization (Confucius3-Math, technical report in netease-youdao/Confucius3-Math).

    loss += lambda |H - H_target|,    H = token mean of the policy's entropy

Defaults: lambda = .001, H_target = .55 (report, stage 1; how H is averaged is our reading). The modulus is a coefficient
lambda sign(H - H_target), decided before the gradient on the whole batch; sign(0) = 0.
"""

from __future__ import annotations

import jax.numpy as jnp

from entjax import masked, vocab
from entjax.control import Target
from entjax.transform import Transform, tunable


def targeted_entropy(coef: Target = 1e-3, *, target: Target = 0.55) -> Transform:
    """A bonus below the target, a penalty of the same size above it."""

    def f(signal, context, *, coef, target):
        H, mask = context.stats["entropy"], signal.mask
        mean = masked.mean(H, mask)
        # Subtracted first: exactly 0 where all are at the target.
        gap = masked.mean(masked.wide(H) - jnp.asarray(target, mean.dtype), mask)
        slope = jnp.asarray(coef, mean.dtype) * jnp.sign(gap)
        scale = mask.astype(mean.dtype) / jnp.maximum(masked.count(mask, dtype=mean.dtype), 1)
        signal = signal.add_term("targeted_entropy", masked.keep(slope, mask), own_scale=scale)
        penalty = jnp.asarray(coef, mean.dtype) * jnp.abs(gap)
        return signal.note(context, entropy=mean, penalty=penalty)

    return tunable(
        "targeted_entropy",
        f,
        {"coef": coef, "target": target},
        reads={"entropy": vocab.entropy},
        terms={"targeted_entropy": vocab.entropy},
        writes={"coef"},
        owns={"entropy"},
    )
