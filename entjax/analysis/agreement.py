"""How far two series of numbers agree: in size (Pearson), in order (Spearman).

    Pearson   cov(x, y) / (sd x sd y)            Spearman   the Pearson correlation of the ranks, ties share theirs

NaN where a series does not vary, for then the question has no answer.
"""

from __future__ import annotations

import numpy as np


def pearson(x: np.ndarray, y: np.ndarray) -> float:
    """Linear correlation of two series [n]."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if x.shape != y.shape or x.ndim != 1:
        raise ValueError(
            f"A correlation compares two series of one length, got shapes {x.shape} and {y.shape}."
        )
    x, y = x - x.mean(), y - y.mean()
    size = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / size) if size > 0 else float("nan")


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Rank correlation of two series [n]."""
    return pearson(ranks(x), ranks(y))


def ranks(x: np.ndarray) -> np.ndarray:
    """Ranks from 0, equal numbers share the mean of theirs."""
    x = np.asarray(x, np.float64)
    _, which, count = np.unique(x, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count + 1) / 2)[which]
