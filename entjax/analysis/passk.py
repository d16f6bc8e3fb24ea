"""avg@k, pass@k and maj@k from n samples of a prompt, each the exact mean over all subsets of k samples.

    avg@k  = c / n
    pass@k = 1 - C(n - c, k) / C(n, k) = 1 - prod_{i=n-c+1}^{n} (1 - k / i)
    maj@k  = P(the most frequent answer of k samples is the right one)

with c right ones among n. The average over subsets is unbiased for a fresh draw of k; the maximum over a
bootstrap *with* replacement is not (it is too low): verl's best@k is here under its own name, `bootstrap_at_k`.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np


def avg_at_k(correct: np.ndarray) -> np.ndarray:
    """Mean reward of each prompt's samples: `correct` [..., n] -> [...]. The same for every k."""
    return np.mean(np.asarray(correct, np.float64), axis=-1)


def pass_at_k(n: int, c: np.ndarray | int, k: int) -> np.ndarray:
    """Probability that one of k samples is right, drawn without replacement from n of which c are right."""
    if not 1 <= k <= n:
        raise ValueError(
            f"pass@k needs 1 <= k <= n, but k = {k} and n = {n}: draw more samples or ask for a smaller k."
        )
    c = np.asarray(c)
    if np.any(c < 0) or np.any(c > n) or np.any(c != np.floor(c)):
        raise ValueError(
            f"pass@k counts right samples: whole numbers from 0 to n = {n}, but c holds {c.min()} to {c.max()}."
        )
    i = np.arange(1, n + 1)
    factor = np.where(i > n - c[..., None], np.maximum(1.0 - k / i, 0.0), 1.0)
    return 1.0 - np.prod(factor, axis=-1)


def maj_at_k(answers: Sequence[Hashable | None], right: Hashable, k: int) -> float:
    """Exact expectation of the majority vote of k of the answers; answers that tie for the most votes share
    the credit.

    `None` is a sample without an answer: it uses up a draw and has no vote. The sum runs over m, the votes
    for the right answer, and counts the ways in which the others get at most m each, by how many of them
    reach m.
    """
    n = len(answers)
    _check_k(k, n)
    votes = Counter(answers)
    silent, c = votes.pop(None, 0), votes.pop(right, 0)
    total = 0.0
    for m in range(1, min(c, k) + 1):
        ways = {(k - m, 0): 1}  # (draws left, answers that tie) -> number of ways
        for count in votes.values():
            ways = _spread(ways, count, m)
        total += math.comb(c, m) * sum(
            w * math.comb(silent, left) / (ties + 1) for (left, ties), w in ways.items()
        )
    return total / math.comb(n, k)


def maj_at_k_first(
    answers: Sequence[Hashable | None], right: Hashable, k: int, limit: int = 200_000
) -> float:
    """The same where the answer met first wins a tie, by going through all subsets (at most `limit`)."""
    n = len(answers)
    _check_k(k, n)
    if math.comb(n, k) > limit:
        raise ValueError(
            f"C({n}, {k}) = {math.comb(n, k)} subsets are too many: use maj_at_k, which shares ties."
        )
    wins = [majority(subset) == right and right is not None for subset in itertools.combinations(answers, k)]
    return sum(wins) / len(wins)


def majority(answers: Sequence[Hashable | None]) -> Hashable | None:
    """The most frequent answer, the one met first among equals; None when nobody answered. maj@n is
    `majority(answers) == right`.
    """
    votes = Counter(answer for answer in answers if answer is not None)
    return votes.most_common(1)[0][0] if votes else None


class Bootstrap(NamedTuple):
    """Means over the draws, each with its standard deviation (divisor: the number of draws)."""

    best: float
    best_std: float
    worst: float
    worst_std: float
    maj: float
    maj_std: float


def bootstrap_at_k(
    answers: Sequence[Hashable | None], right: Hashable, k: int, *, draws: int = 1000, seed: int = 42
) -> Bootstrap:
    """verl's best@k, worst@k and maj@k: over `draws` draws of k answers *with* replacement, ties to the answer met first.

    The mean of best@k is 1 - (1 - c / n)^k, which is below pass@k for k > 1: to compare with verl's logs, not to report. The
    defaults, and the generator, are verl's.
    """
    if k < 1 or draws < 1 or not len(answers):
        raise ValueError(
            f"A bootstrap needs answers, k >= 1 and draws >= 1, got {len(answers)}, {k} and {draws}."
        )
    rows = np.random.RandomState(seed).choice(len(answers), (draws, k), replace=True)
    correct = np.array([right is not None and answer == right for answer in answers], np.float64)
    votes = np.array(
        [right is not None and majority([answers[i] for i in row]) == right for row in rows], np.float64
    )
    found = (correct[rows].max(1), correct[rows].min(1), votes)
    return Bootstrap(*(float(x) for values in found for x in (values.mean(), values.std())))


def _spread(ways: dict[tuple[int, int], int], count: int, m: int) -> dict[tuple[int, int], int]:
    """Give one more answer, of which there are `count` samples, every possible number of votes up to m."""
    out: dict[tuple[int, int], int] = {}
    for (left, ties), w in ways.items():
        for v in range(min(count, m, left) + 1):
            key = (left - v, ties + (v == m))
            out[key] = out.get(key, 0) + w * math.comb(count, v)
    return out


def _check_k(k: int, n: int) -> None:
    if not 1 <= k <= n:
        raise ValueError(
            f"maj@k needs 1 <= k <= n, but k = {k} and n = {n}: draw more samples or ask for a smaller k."
        )
