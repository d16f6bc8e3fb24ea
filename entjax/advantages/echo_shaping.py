"""ECHO's hybrid shaping, "Entropy-Confidence Hybrid Optimization" (repository user683/ECHO): uncertain tokens move further.

    S = clip(alpha z(H) + beta z(1 - C), -s_max, s_max),    z over all valid tokens: (x - mean) / sqrt(var + 1e-8), divisor n - 1
    A' = A (1 + multiply S) + add (S - mean of S over the group's tokens)

H and the confidence C are the behaviour policy's. Confidence kinds: "topk_prob" mean probability of the k most likely tokens
(paper, default), "token_prob" exp(old_logp) (what the shipped scripts fall back to), "neg_mean_logprob" -mean log p of the k most
likely (the sampler's). Defaults alpha = beta = 1, s_max 2, multiply 0.1, add 0, k 5 (scripts). The paper does not standardise.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from entjax import masked
from entjax.control import Controller, Target
from entjax.transform import Transform, is_dynamic, tunable
from entjax.vocab import Feature

KINDS = ("topk_prob", "token_prob", "neg_mean_logprob")


def echo_shaping(
    *,
    alpha: Target | Controller = 1.0,
    beta: Target | Controller = 1.0,
    s_max: float | None = 2.0,
    multiply: Target | Controller = 0.1,
    add: Target | Controller = 0.0,
    confidence: str = "topk_prob",
    top_k: int = 5,
) -> Transform:
    """Scales the advantage by standardised entropy and doubt. `s_max=None` does not clip the score."""
    remembers = confidence_features(confidence, top_k)
    if s_max is not None and not s_max > 0:
        raise ValueError(f"echo_shaping needs s_max > 0 or None, got {s_max}.")

    def f(signal, context, *, alpha, beta, multiply, add):
        mask, advantage, group = signal.mask, signal.advantage, context.rollout.group
        as_value = lambda x: jnp.asarray(x, advantage.dtype)
        doubt = 1 - confidence_of(context.rollout, mask, confidence, top_k).astype(advantage.dtype)
        s = as_value(alpha) * _whiten(context.rollout.entropy.astype(advantage.dtype), mask)
        s = s + as_value(beta) * _whiten(doubt, mask)
        s = s if s_max is None else jnp.clip(s, -s_max, s_max)
        shaped = advantage * (1 + as_value(multiply) * s)
        if is_dynamic(hyper["add"]) or hyper["add"] != 0:
            n = masked.group_total(masked.count(mask, axis=1, dtype=s.dtype), group)
            mean = masked.group_total(masked.total(s, mask, axis=1), group) / jnp.maximum(n, 1)
            shaped = shaped + as_value(add) * (s - mean[:, None])
        return signal.replace(advantage=masked.keep(shaped, mask))

    hyper = {"alpha": alpha, "beta": beta, "multiply": multiply, "add": add}
    return tunable("echo_shaping", f, hyper, remembers=remembers, writes={"advantage"})


def _whiten(x, mask):
    variance = masked.var(x, mask, ddof=1)
    return masked.centred(x, mask) * jax.lax.rsqrt(variance + 1e-8)


def confidence_features(kind: str, top_k: int) -> dict[str, Feature]:
    """What the scoring pass must remember of the behaviour policy for this kind of confidence."""
    if kind not in KINDS:
        raise ValueError(f"confidence must be one of {', '.join(map(repr, KINDS))}, got {kind!r}.")
    if top_k < 1:
        raise ValueError(f"top_k must be at least 1, got {top_k}.")
    return {} if kind == "token_prob" else {f"{kind}_{top_k}": top_k_confidence(kind, top_k)}


def confidence_of(rollout, mask, kind: str, top_k: int):
    """The confidence of every valid token, 0 elsewhere."""
    if kind == "token_prob":
        return masked.keep(jnp.exp(jnp.minimum(masked.keep(rollout.old_logp, mask), 0)), mask)
    return masked.keep(rollout.extra[f"{kind}_{top_k}"], mask)


@functools.lru_cache(None)
def top_k_confidence(kind: str, top_k: int) -> Feature:
    """Mean p, or -mean log p, of the `top_k` most likely tokens."""

    def feature(row):
        best, _ = jax.lax.top_k(row.log_probs, min(top_k, row.logits.shape[-1]))
        return jnp.mean(jnp.exp(best), axis=-1) if kind == "topk_prob" else -jnp.mean(best, axis=-1)

    return feature
