"""Entropy features of a completion and what a judge does with them (Entropy-Judger, "When Does Multi-Agent Collaboration Help?").

The released judge averages the P(correct) of two boosted-tree models over features of the token entropies; the trees are not
part of this library. Here: the features per completion, and the two decisions, best of K and stop at the first sure one.
"""

from __future__ import annotations

import numpy as np

LEVELS = (0.1, 0.25, 0.5, 0.75, 0.9)
NAMES = (
    "mean",
    "max",
    "min",
    "std",
    *(f"q{level:g}" for level in LEVELS),
    "slope",
    "first",
    "last",
    "total",
    "length",
)


def entropy_features(entropy: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """[B, len(NAMES)] from entropies [B, T] at valid tokens; `slope` in nats a token (least squares), NaN for an empty row."""
    return np.stack(
        [_row(np.asarray(h, np.float64)[m]) for h, m in zip(entropy, np.asarray(mask, bool), strict=True)]
    )


def best_of(p_correct: np.ndarray) -> np.ndarray:
    """The row to answer with: argmax over the last axis."""
    return np.argmax(p_correct, axis=-1)


def first_sure(p_correct: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """(row, samples used): the first of K that reaches the threshold, the best of all where none does."""
    p = np.asarray(p_correct)
    sure = p >= threshold
    some, where = sure.any(-1), sure.argmax(-1)
    return np.where(some, where, best_of(p)), np.where(some, where + 1, p.shape[-1])


def _row(h: np.ndarray) -> np.ndarray:
    if not len(h):
        return np.full(len(NAMES), np.nan)
    t = np.arange(len(h)) - (len(h) - 1) / 2
    slope = (t * h).sum() / (t**2).sum() if len(h) > 1 else 0.0
    return np.array(
        [h.mean(), h.max(), h.min(), h.std(), *np.quantile(h, LEVELS), slope, h[0], h[-1], h.sum(), len(h)]
    )
