"""Where in a completion the policy hesitates: quantiles of the token entropy, and the tokens at which it forks.

The 80/20 observation (arXiv 2506.01939): few tokens carry most of the entropy, and they are the decisions. A token *forks* when
its entropy lies among the top `share` of the valid tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

LEVELS = (0.0, 0.1, 0.25, 0.5, 0.75, 0.8, 0.9, 0.95, 0.99, 1.0)


class Fork(NamedTuple):
    """A token as it was sampled: how often, how often at a fork, and the mean entropy of the policy there."""

    token: str
    count: int
    forks: int
    entropy: float


def quantiles(
    entropy: np.ndarray, mask: np.ndarray, levels: tuple[float, ...] = LEVELS
) -> dict[float, float]:
    """Quantiles of the entropies at the valid tokens."""
    valid = _valid(entropy, mask)
    return dict(zip(levels, np.quantile(valid, levels).tolist(), strict=True))


def concentration(entropy: np.ndarray, mask: np.ndarray, share: float = 0.2) -> float:
    """The part of all entropy that the top `share` of the tokens carries; `share` where it is spread evenly."""
    ordered = np.sort(_valid(entropy, mask))[::-1]
    total = ordered.sum()
    return float(ordered[: max(1, round(share * len(ordered)))].sum() / total) if total > 0 else float("nan")


def forking(entropy: np.ndarray, mask: np.ndarray, share: float = 0.2) -> np.ndarray:
    """[B, T] True at the tokens whose entropy reaches the (1 - share) quantile."""
    if not 0 < share <= 1:
        raise ValueError(f"forking needs 0 < share <= 1, got {share}.")
    return np.asarray(mask, bool) & (np.asarray(entropy) >= np.quantile(_valid(entropy, mask), 1 - share))


def forks(
    tokens: np.ndarray,
    entropy: np.ndarray,
    mask: np.ndarray,
    decode: Callable[[list[int]], str],
    share: float = 0.2,
) -> list[Fork]:
    """Every token that was sampled, those with most forks first."""
    mask, fork = np.asarray(mask, bool), forking(entropy, mask, share)
    found = []
    for token in np.unique(np.asarray(tokens)[mask]).tolist():
        here = mask & (np.asarray(tokens) == token)
        mean = float(np.asarray(entropy, np.float64)[here].mean())
        found.append(Fork(decode([token]), int(here.sum()), int((here & fork).sum()), mean))
    return sorted(found, key=lambda f: (-f.forks, -f.entropy))


def _valid(entropy: np.ndarray, mask: np.ndarray) -> np.ndarray:
    valid = np.asarray(entropy, np.float64)[np.asarray(mask, bool)]
    if not len(valid):
        raise ValueError("There is no valid token: the mask is empty.")
    return valid
