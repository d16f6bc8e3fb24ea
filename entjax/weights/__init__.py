"""Weights: how much of the surrogate a token keeps, written into signal.weight (or signal.mask, where the average changes)."""

from entjax.weights.attention_entropy import attention_entropy
from entjax.weights.clip_b import clip_b
from entjax.weights.clip_cov import clip_cov
from entjax.weights.clip_v import clip_v
from entjax.weights.entropy_budget import entropy_budget
from entjax.weights.forking_tokens import forking_tokens
from entjax.weights.geometric_mean import geometric_mean
from entjax.weights.importance import importance
from entjax.weights.off_policy_sequences import off_policy_sequences
from entjax.weights.reject_mismatch import reject_mismatch
from entjax.weights.steer import steer
from entjax.weights.terms_only import terms_only
from entjax.weights.zero_variance import zero_variance

__all__ = [
    "attention_entropy",
    "clip_b",
    "clip_cov",
    "clip_v",
    "entropy_budget",
    "forking_tokens",
    "geometric_mean",
    "importance",
    "off_policy_sequences",
    "reject_mismatch",
    "steer",
    "terms_only",
    "zero_variance",
]
