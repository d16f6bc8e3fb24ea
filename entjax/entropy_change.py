"""How much the policy's entropy at a token changes by one step of gradient ascent on that token: five estimators, one interface.

    score(signal, context) -> [B, T], the predicted change dH per unit step, sign included (negative: entropy falls)

Letters: p, H of the current policy at the position, k the sampled token, r the ratio to the behaviour policy, A the advantage,
I = 0 where PPO has clipped the token; the step moves the logits by g (e_k - p), g = I r A.  S_v = p_v (log p_v + H).

    exact_first_order   -g (S_k - N),  N = E_p[S] = H sum p^2 + sum p^2 log p      ("On the Entropy Dynamics in RFT", Thm 3.3)
    discriminator       -g S_k                                                     (Thm 3.2: only the sampled logit moves)
    steer_theorem       -g p (1 - p) (log p + H)                                   (STEER, the theorem)
    steer_code          -A / p_old q (1 - q) (log q + H_old), q = clip(p)          (STEER, the released code: no I, one p less)
    covariance          -(A - mean A)(log p - mean log p) over the batch           (Cui et al., arXiv 2505.22617)

Correlation with the true change in a tabular softmax of 17 tokens, its states from nearly uniform to nearly certain: 1.00, .67,
.79, .69, .62 (notebook 04; states of one sharpness: the covariance does better, up to .8). All come from one pass over logits.

A normaliser maps the sizes |dH| of the batch to [0, 1]: `peak` and `minmax` (as published: one outlier pushes all other tokens
to one end), `winsorised` and `rank` (which it cannot).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from entjax import masked, vocab
from entjax.surrogates import ratio
from entjax.types import Context, Signal

Normaliser = Callable[[Array, Array], Array]  # (sizes [B, T], mask) -> [B, T] in [0, 1]


class Estimator(NamedTuple):
    """A pluggable estimate of the entropy change. `reads` are the features of the current policy that `score` looks up."""

    name: str
    reads: Mapping[str, vocab.Feature]
    score: Callable[[Signal, Context], Array]


# The quantities of the papers ------------------------------------------------------------------------------------------------


def discriminator_score(logp: Array, entropy: Array) -> Array:
    """S = p (log p + H): positive for a token more likely than is typical for its position."""
    return jnp.exp(jnp.minimum(logp, 0)) * (logp + entropy)


def expected_score(entropy: Array, prob_sq: Array, prob_sq_logp: Array) -> Array:
    """N = E_p[S] = H sum p^2 + sum p^2 log p."""
    return entropy * prob_sq + prob_sq_logp


def token_covariance(advantage: Array, logp: Array, mask: Array) -> Array:
    """(A - mean A)(log p - mean log p), means over the valid tokens; 0 elsewhere."""
    centred = lambda x: masked.keep(x - masked.mean(x, mask), mask)
    return centred(advantage) * centred(logp)


def gradient_factor(signal: Signal, log_ratio: Array) -> Array:
    """g = I r A: the derivative of PPO's surrogate with respect to log p."""
    r, a = ratio(log_ratio), signal.advantage
    clipped = ((a > 0) & (r > signal.clip_high)) | ((a < 0) & (r < signal.clip_low))
    return jnp.where(clipped, 0, r * a)


# The estimators -------------------------------------------------------------------------------------------------------------


def _seen(signal: Signal, context: Context, *names: str) -> list[Array]:
    """Statistics at valid tokens in the Signal's dtype, 0 elsewhere."""
    own = {"old_logp": context.rollout.old_logp, "old_entropy": context.rollout.entropy}
    pick = lambda name: own[name] if name in own else context.stats[name]
    return [masked.keep(pick(name), signal.mask).astype(signal.advantage.dtype) for name in names]


def _exact(signal, context):
    logp, old, entropy, *sums = _seen(
        signal, context, "logp", "old_logp", "entropy", "prob_sq", "prob_sq_logp"
    )
    change = discriminator_score(logp, entropy) - expected_score(entropy, *sums)
    return masked.keep(-gradient_factor(signal, logp - old) * change, signal.mask)


def _discriminator(signal, context):
    logp, old, entropy = _seen(signal, context, "logp", "old_logp", "entropy")
    change = discriminator_score(logp, entropy)
    return masked.keep(-gradient_factor(signal, logp - old) * change, signal.mask)


def _steer_theorem(signal, context):
    logp, old, entropy = _seen(signal, context, "logp", "old_logp", "entropy")
    change = discriminator_score(logp, entropy) * -jnp.expm1(jnp.minimum(logp, 0))
    return masked.keep(-gradient_factor(signal, logp - old) * change, signal.mask)


def _steer_code(signal, context):
    logp, old, entropy = _seen(signal, context, "logp", "old_logp", "old_entropy")
    q = jnp.clip(jnp.exp(jnp.minimum(logp, 0)), 1e-8, 1 - 1e-8)
    behaviour = jnp.clip(jnp.exp(jnp.minimum(old, 0)), 1e-8, 1.0)
    omega = signal.advantage / behaviour * q * (1 - q) * (jnp.log(q) + entropy)
    return masked.keep(-omega, signal.mask)


def _covariance(signal, context):
    return -token_covariance(signal.advantage, *_seen(signal, context, "logp"), signal.mask)


def _reads(*names: str) -> dict[str, Any]:
    return {name: getattr(vocab, name) for name in names}


exact_first_order = Estimator(
    "exact_first_order", _reads("logp", "entropy", "prob_sq", "prob_sq_logp"), _exact
)
discriminator = Estimator("discriminator", _reads("logp", "entropy"), _discriminator)
steer_theorem = Estimator("steer_theorem", _reads("logp", "entropy"), _steer_theorem)
steer_code = Estimator("steer_code", _reads("logp"), _steer_code)
covariance = Estimator("covariance", _reads("logp"), _covariance)


# Normalisers ----------------------------------------------------------------------------------------------------------------


def peak(floor: float = 0.0) -> Normaliser:
    """u / max(max u, floor): STEER's exponential mapping. Paper: no floor; released code: 0.02."""
    if not floor >= 0:
        raise ValueError(f"peak needs floor >= 0, got {floor}.")
    return lambda u, mask: _fraction(u, jnp.maximum(masked.maximum(u, mask), floor), mask)


def minmax(u: Array, mask: Array) -> Array:
    """(u - min) / (max - min): STEER's linear mapping; 1/2 where all are equal."""
    low, high = masked.minimum(u, mask), masked.maximum(u, mask)
    return jnp.where(high > low, _fraction(u - low, high - low, mask), 0.5)


def winsorised(q: float = 0.99) -> Normaliser:
    """min(u / quantile_q, 1): the largest 1 - q of the sizes count as one size."""
    if not 0 < q <= 1:
        raise ValueError(f"winsorised needs a quantile 0 < q <= 1, got {q}.")
    return lambda u, mask: _fraction(u, masked.quantile(u, mask, q), mask)


def rank(u: Array, mask: Array) -> Array:
    """The fraction of the other tokens with a smaller size: only the order counts, ties share a value."""
    flat = jnp.sort(jnp.where(mask, u, jnp.inf).ravel())
    below = jnp.searchsorted(flat, jnp.where(mask, u, -jnp.inf).ravel(), side="left").reshape(u.shape)
    others = jnp.maximum(masked.count(mask, dtype=u.dtype) - 1, 1)
    return masked.keep(below.astype(u.dtype) / others, mask)


def _fraction(u: Array, whole: Array, mask: Array) -> Array:
    fraction = jnp.where(whole > 0, u / jnp.where(whole > 0, whole, 1), 0)
    return masked.keep(jnp.clip(fraction, 0, 1), mask)
