"""Features of the logits that single methods need, beside those of entjax/vocab.py; each is a function of a vocab.Row.

A factory returns the same object for equal parameters, so that two transforms may share one feature; `named` gives the key
under which transforms read, remember or add it. Features marked `needs_reference_logits` see row.side["ref_logits"].
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from entjax import vocab
from entjax.nucleus import nucleus
from entjax.vocab import Feature, Row, needs_reference_logits

FILTERED = -1e4  # the log-prob of a token that a filter removed (Lp-Reg's released code)


def named(what: str, *parameters) -> str:
    """The key of a feature with parameters: named("top_p_entropy", 0.8, True) is "top_p_entropy_0.8_True"."""
    return "_".join([what, *map(str, parameters)])


@functools.cache
def top_p_entropy(p: float, include_crossing: bool = True) -> Feature:
    """Entropy of the policy cut to its nucleus and renormalised: -sum_I q log q, q = p 1_I / sum_I p; 0 for an empty nucleus.

    `include_crossing` is the usual nucleus (the smallest set of mass >= p); False leaves the crossing token out, so that a
    token of mass >= p alone gives entropy 0 (SIREN's released code).
    """
    if not 0.0 < p <= 1.0:
        raise ValueError(f"top_p_entropy needs 0 < p <= 1, got {p}.")

    @vocab.with_slope
    def value(log_probs):
        inside = nucleus(log_probs, p, include_crossing)
        kept = jnp.where(inside, jnp.exp(log_probs), 0)
        several = kept.sum(-1) > kept.max(-1)  # one token has entropy 0, not what rounding leaves of it
        total = jnp.where(several, kept.sum(-1), 1)
        mean = jnp.where(several, jnp.sum(kept * log_probs, axis=-1), 0) / total  # of log p in the nucleus
        q = jnp.where(several[..., None], kept / total[..., None], 0)
        return jnp.log(total) - mean, q * (mean[..., None] - log_probs)

    return lambda row: value(row.logits)


@functools.cache
def tempered_logp(temperature: float) -> Feature:
    """log softmax(l / temperature) at the sampled token: the same policy, flatter (> 1) or sharper (< 1)."""
    if not temperature > 0:
        raise ValueError(f"tempered_logp needs a temperature greater than 0, got {temperature}.")
    return lambda row: row.pick(jax.nn.log_softmax(row.logits / temperature, axis=-1))


@functools.cache
def min_p_logp(kappa: float, rule: str = "minp") -> Feature:
    """log-prob of the sampled token after a filter and renormalisation; -1e4 for a token that the filter removes.

    rule "minp" keeps p_v >= kappa max_v p, "fixed" keeps p_v >= kappa (nothing left: the uniform distribution). "minp_soft"
    filters like "minp", but what it removes gets the smallest logit of the row instead of nothing.
    """
    if rule not in ("minp", "fixed", "minp_soft"):
        raise ValueError(f"min_p_logp's rule must be 'minp', 'fixed' or 'minp_soft', got {rule!r}.")
    if not 0.0 <= kappa <= 1.0:
        raise ValueError(f"min_p_logp needs 0 <= kappa <= 1, got {kappa}.")
    cut = math.log(kappa) if kappa > 0 else -math.inf

    def feature(row: Row) -> Array:
        log_probs = row.log_probs
        top = 0.0 if rule == "fixed" else jnp.max(log_probs, axis=-1, keepdims=True)
        keep = log_probs >= top + cut
        if rule == "minp_soft":
            lowest = jnp.min(log_probs, axis=-1, keepdims=True)
            soft = row.pick(jax.nn.log_softmax(jnp.where(keep, log_probs, lowest), axis=-1))
            return jnp.maximum(soft, FILTERED)
        some, inside = keep.any(-1), row.pick(keep.astype(log_probs.dtype)) > 0
        # Of the logits: where nothing is filtered this is the policy's own log-prob to the last digit.
        renormalised = jax.nn.log_softmax(jnp.where(keep | ~some[..., None], row.logits, -jnp.inf), axis=-1)
        left = jnp.where(inside, row.pick(renormalised), FILTERED)
        return jnp.where(some, left, -math.log(log_probs.shape[-1]))

    return feature


def weighted_logp(row: Row) -> Array:
    """r logp with r = exp(logp - old_logp): minus the importance-sampled entropy. The gradient passes through both."""
    return vocab.ratio(row) * vocab.logp(row)


@needs_reference_logits
def reverse_kl(row: Row) -> Array:
    """KL(pi || ref) = sum_v p (log p - log q) over the whole vocabulary."""
    return jnp.sum(row.probs * (row.log_probs - _reference(row)), axis=-1)


@needs_reference_logits
def forward_kl(row: Row) -> Array:
    """KL(ref || pi) = sum_v q (log q - log p) over the whole vocabulary."""
    log_q = _reference(row)
    return jnp.sum(jnp.exp(log_q) * (log_q - row.log_probs), axis=-1)


@needs_reference_logits
def hellinger(row: Row) -> Array:
    """Squared Hellinger distance 1 - sum_v sqrt(p q) to the reference policy, in [0, 1]."""
    overlap = jnp.sum(jnp.exp(0.5 * (row.log_probs + _reference(row))), axis=-1)
    return jnp.clip(1.0 - overlap, 0.0, 1.0)


def _reference(row: Row) -> Float[Array, "... V"]:
    return jax.nn.log_softmax(row.side["ref_logits"], axis=-1)
