"""Drop bad sequences that the policy has already moved away from (TRL's off-policy sequence mask).

    keep if A >= 0 or mean_t (log p_old - log p_theta) <= delta

The mean runs over the sequence's valid tokens under the current policy; dropped tokens stay in the denominator. The threshold
has no default in TRL (off); its goldens use 0.05.
"""

from __future__ import annotations

import jax.numpy as jnp

from entjax import masked, vocab
from entjax.control import Controller, Target
from entjax.transform import Transform, tunable


def off_policy_sequences(threshold: Target | Controller) -> Transform:
    """Weight 0 for tokens of negative advantage in sequences whose mean log-ratio has fallen below -threshold."""

    def f(signal, context, *, threshold):
        fall = masked.gap(context.rollout.old_logp, context.stats["logp"], signal.mask)
        fall = masked.mean(fall, signal.mask, axis=1, keepdims=True)
        kept = (signal.advantage >= 0) | (fall <= jnp.asarray(threshold, fall.dtype))
        weight = jnp.where(kept, signal.weight, 0)
        return signal.replace(weight=weight).note(context, kept=masked.mean(kept, signal.mask))

    return tunable(
        "off_policy_sequences",
        f,
        {"threshold": threshold},
        reads={"logp": vocab.logp},
        writes={"weight"},
        sees={"advantage"},
    )
