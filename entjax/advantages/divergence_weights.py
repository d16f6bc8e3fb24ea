"""DWA, the divergence-weighted advantages of "Sparse but Critical": weigh tokens by how far the policy has moved on them.

    w_it = 1 + s (sigmoid(alpha KL_it) - 1/2),   KL = exp(x) - 1 - x,   x = logp - old_logp (`against="old"`)
    A'_it = w_it A_it                                                   x = ref_logp - logp (`against="reference"`)

alpha > 0 boosts tokens of high divergence, alpha < 0 those of low divergence. w = 1 where KL = 0, so against "old" it acts only
in off-policy minibatches. s and alpha are not given in the paper: defaults s 1, alpha 5 (the KL is 1e-3 to 1e-1). No code was
released; evidence: two texts.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array

from entjax import masked, vocab
from entjax.control import Controller, Target
from entjax.loss import log_ratios
from entjax.surrogates import MAX_LOG_RATIO
from entjax.transform import Transform, tunable


def divergence_weights(
    *, s: Target | Controller = 1.0, alpha: Target | Controller = 5.0, against: str = "old"
) -> Transform:
    """Token weights in (1 - |s|/2, 1 + |s|/2), monotone in the divergence."""
    if against not in ("old", "reference"):
        raise ValueError(f"against must be 'old' or 'reference', got {against!r}.")

    def f(signal, context, *, s, alpha):
        rollout, advantage, mask = context.rollout, signal.advantage, signal.mask
        if against == "old":
            x = log_ratios(context.stats["logp"], rollout.old_logp, mask)
        else:
            x = log_ratios(rollout.extra["ref_logp"], context.stats["logp"], mask)
        x = jnp.clip(x, -MAX_LOG_RATIO, MAX_LOG_RATIO)
        kl = (jnp.exp(x) - 1 - x).astype(advantage.dtype)
        w = divergence_weight(kl, s, alpha)
        signal = signal.note(context, kl=masked.mean(kl, mask), weight=masked.mean(w, mask))
        return signal.replace(advantage=masked.keep(advantage * w, mask))

    about = {"needs": {"ref_logp"} if against == "reference" else (), "writes": {"advantage"}}
    hyper = {"s": s, "alpha": alpha}
    return tunable("divergence_weights", f, hyper, reads={"logp": vocab.logp}, **about)


def divergence_weight(kl: Array, s: Array | float, alpha: Array | float) -> Array:
    """w = 1 + s (sigmoid(alpha KL) - 1/2), whichever estimate of the divergence is given."""
    as_value = lambda v: jnp.asarray(v, kl.dtype)
    return 1 + as_value(s) * (jax.nn.sigmoid(as_value(alpha) * kl) - 0.5)
