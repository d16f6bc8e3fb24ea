"""Inv-Entropy: is the question still determined by the answer when the question is perturbed? (arXiv 2506.09684)

    Px, Py = |cosine| similarities of n perturbed questions and of their answers, rows normalised
    P(x_i | y_j) = (Py Px)_ji;     value -sum_i P(x_i | y_i) ln P(x_i | y_i)

Only the diagonal enters, unnormalised (as released). The published value is the mean over 20 draws of one replicate for each
perturbed question.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class InvEntropy(NamedTuple):
    x_given_y: float  # the measure
    y_given_x: float
    max_py: float
    wasserstein: float  # between the numbers p_x and the numbers p_y
    p_x_given_y: np.ndarray  # [n, n] entry [i, j] is P(x_i | y_j)
    p_y_given_x: np.ndarray  # [n, n] entry [i, j] is P(y_j | x_i)


def inv_entropy(similar_x: np.ndarray, similar_y: np.ndarray) -> InvEntropy:
    """All measures of one draw from the [n, n] similarities, which must be positive in every row."""
    px, py = (_rows(np.asarray(s, np.float64)) for s in (similar_x, similar_y))
    both = py @ px  # [j, i]
    p_y = py.mean(0)
    p_x = p_y @ both
    y_given_x = (both * p_y[:, None] / p_x[None, :]).T
    return InvEntropy(
        x_given_y=_surprise(np.diag(both)),
        y_given_x=_surprise(np.diag(y_given_x)),
        max_py=float(p_y.max()),
        wasserstein=float(np.abs(np.sort(p_x) - np.sort(p_y)).mean()),
        p_x_given_y=both.T,
        p_y_given_x=y_given_x,
    )


def _rows(s: np.ndarray) -> np.ndarray:
    if not (s.sum(-1) > 0).all():
        raise ValueError("Each row of similarities needs a positive entry (an item is similar to itself).")
    return s / s.sum(-1, keepdims=True)


def _surprise(p: np.ndarray) -> float:
    return -float((p * np.log(np.where(p > 0, p, 1))).sum())
