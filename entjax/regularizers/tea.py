"""TEA, token-wise entropy-adaptive bonus of Light-IF (arXiv 2508.03178; code Qihoo360/Light-IF).

    cov_it = (A_it - mean A) (log pi_it - mean log pi)
    w_it = clip(alpha softmax_t(cov_i), 0, ub)                softmax over the tokens of the row
    loss -= c mean_it(w_it H_it)

Defaults: alpha 10, ub 5 (released), c 1e-3 (ours: the release states none). A constant advantage gives w = min(alpha / L, ub).
In the release the weights are not detached (`detach=False`): then the gradient also changes log pi so that w falls on uncertain
tokens; it is the gradient of H w(log pi) with H held, computed before the loss on whole rows. There the branch that would use TEA
is never reached.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from entjax import masked, vocab
from entjax.conflicts import steered
from entjax.control import Target
from entjax.transform import Transform, tunable


def tea(coef: Target = 1e-3, *, alpha: float = 10.0, upper: float = 5.0, detach: bool = True) -> Transform:
    """Entropy bonus weighted towards the tokens that drive the entropy down."""
    if not (alpha > 0 and upper > 0):
        raise ValueError(f"tea needs alpha, upper > 0, got alpha={alpha}, upper={upper}.")

    def weights(logp, A, mask, mean):
        covariance = (A - masked.mean(A, mask)) * (logp - mean)
        return jnp.clip(alpha * masked.softmax(masked.keep(covariance, mask), mask, axis=1), 0, upper)

    def f(signal, context, *, coef):
        A, mask = signal.advantage, signal.mask
        logp, H = (masked.keep(context.stats[name], mask) for name in ("logp", "entropy"))
        mean = masked.mean(logp, mask)
        coef = jnp.asarray(coef, logp.dtype)
        scale = mask.astype(logp.dtype) / jnp.maximum(masked.count(mask, dtype=logp.dtype), 1)
        weigh = lambda logp: weights(logp, A.astype(logp.dtype), mask, mean)
        w = weigh(logp)
        signal = signal.add_term("tea", -coef * w, own_scale=scale)
        if not detach:
            slope = jax.grad(lambda logp: jnp.sum(H * weigh(logp)))(logp)
            signal = signal.add_term("tea_logp", -coef * masked.keep(slope, mask), own_scale=scale)
        return signal.note(context, weight=masked.mean(w, mask), bonus=masked.mean(w * H, mask))

    terms = {"tea": vocab.entropy} | ({} if detach else {"tea_logp": vocab.logp})
    reads = {"entropy": vocab.entropy, "logp": vocab.logp}
    return tunable(
        "tea",
        f,
        {"coef": coef},
        reads=reads,
        terms=terms,
        writes={"coef"},
        sees={"advantage"},
        owns=steered(coef),
    )
