"""KL-Cov: hold back the few tokens whose covariance drives the entropy down ("The Entropy Mechanism of Reinforcement Learning for
Reasoning Language Models", arXiv 2505.22617; code PRIME-RL/Entropy-Mechanism-of-RL and verl).

    c_it = (A_it - mean A) (log pi_it - mean log pi)                          means over the valid tokens, current policy
    loss += beta |log pi_it - log pi_old,it| on the k = max(1, floor(ratio n)) tokens of largest c

Defaults: ratio 2e-4 (32B; 2e-3 at 7B), beta 1 (scripts; 0.1 in verl's config class). The paper has no clipping at all: use it
with `surrogates.unclipped`. The penalty's gradient is the sign of the log-ratio, 0 where both policies agree: no effect in the
first update of a rollout.
"""

from __future__ import annotations

import jax.numpy as jnp

from entjax import kl, masked, vocab
from entjax.conflicts import steered
from entjax.control import Target
from entjax.transform import Transform, is_dynamic, tunable


def kl_cov(ratio: Target = 2e-4, coef: Target = 1.0) -> Transform:
    """|log ratio| on the fraction `ratio` of tokens with the largest covariance of advantage and log-prob."""
    if not is_dynamic(ratio) and not 0.0 < ratio <= 1.0:
        raise ValueError(f"kl_cov's ratio is a fraction (0.002 for 0.2 percent) in (0, 1], got {ratio}.")
    term, feature = kl.feature_name(kl.absolute(), "old_logp"), kl.feature(kl.absolute(), "old_logp")

    def f(signal, context, *, ratio, coef):
        mask, A, logp = signal.mask, signal.advantage, context.stats["logp"]
        covariance = (A - masked.mean(A, mask)) * (masked.wide(logp) - masked.mean(logp, mask))
        n = masked.count(mask, dtype=covariance.dtype)
        k = jnp.maximum(jnp.floor(n * jnp.asarray(ratio, n.dtype)), 1)
        selected = masked.highest(covariance, mask, k.astype(jnp.int32))
        signal = signal.add_term(term, jnp.where(selected, jnp.asarray(coef, A.dtype), jnp.zeros_like(A)))
        return signal.note(context, covariance=masked.mean(covariance, selected), selected=selected.sum())

    return tunable(
        "kl_cov",
        f,
        {"ratio": ratio, "coef": coef},
        reads={"logp": vocab.logp},
        terms={term: feature},
        writes={"coef"},
        sees={"advantage"},
        owns=steered(ratio, coef),
    )
