"""How much each reasoning step tells about the answer: the fall of the answer's entropy (arXiv 2508.20395).

    H_k = mean over the answer's tokens of the entropy of p(. | question, steps <= k, answer before it);   utility H_{k-1} - H_k

H_k comes from scoring question + steps up to k + answer by teacher forcing (`vocab.entropy` on the answer span). Slope and
monotone fraction are this project's summaries.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Reduction(NamedTuple):
    """What K + 1 entropies say about K steps."""

    utility: np.ndarray  # [K] H_{k-1} - H_k, positive where the step helped
    slope: float  # least squares of H_k on k, nats a step
    monotone: float  # share of the steps that helped


def answer_entropy(entropy: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """H_k [K + 1] from token entropies [K + 1, T] of the scored texts and the masks of their answer spans."""
    mask = np.asarray(mask, bool)
    if not mask.any(-1).all():
        empty = np.flatnonzero(~mask.any(-1)).tolist()
        raise ValueError(f"Each text needs an answer span to be scored; rows {empty} have none.")
    return np.where(mask, entropy, 0).sum(-1) / mask.sum(-1)


def reduction(entropies: np.ndarray) -> Reduction:
    """Utilities, slope and monotone fraction from H_0 .. H_K."""
    h = np.asarray(entropies, np.float64)
    if len(h) < 2:
        raise ValueError(f"A reduction needs the entropy before and after a step, got {len(h)} entropies.")
    utility = h[:-1] - h[1:]
    k = np.arange(len(h)) - (len(h) - 1) / 2
    return Reduction(utility, float((k * h).sum() / (k**2).sum()), float((utility > 0).mean()))
