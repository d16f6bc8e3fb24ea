"""Agentic AEPO, "Agentic Entropy-Balanced Policy Optimization" (repository RUC-NLPIR/ARPO): entropy-aware advantages.

    A'_it = A_it (1 + a z_it),    z = zscore of the current policy's entropy over all valid tokens (divisor n - 1; equal -> 0)

Default a 0.2 (script). The factors average to 1. z < -1/a flips a sign (as released): `floor=0.0` forbids it. Prose says batch
or group, the released code takes the micro-batch; here it is the whole minibatch. The clip that belongs to it is
`surrogates.preserve_high()`.
"""

from __future__ import annotations

import jax.numpy as jnp

from entjax import masked, vocab
from entjax.control import Controller, Target
from entjax.transform import Transform, tunable


def agentic_advantage(*, a: Target | Controller = 0.2, floor: float | None = None) -> Transform:
    """Scales the advantage up where the policy is more uncertain than on average."""

    def f(signal, context, *, a):
        entropy = context.stats["entropy"].astype(signal.advantage.dtype)
        z = masked.standardize(entropy, signal.mask, ddof=1)
        factor = 1 + jnp.asarray(a, z.dtype) * z
        if floor is not None:
            factor = jnp.maximum(factor, floor)
        signal = signal.note(context, flipped=masked.mean(factor < 0, signal.mask))
        return signal.replace(advantage=masked.keep(signal.advantage * factor, signal.mask))

    return tunable("agentic_advantage", f, {"a": a}, reads={"entropy": vocab.entropy}, writes={"advantage"})
