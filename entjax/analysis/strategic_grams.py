"""Strategic grams of HICRA (arXiv 2509.03646): short phrases with which a solution plans, mined, found and counted.

Mining: n-grams of 3 to 5 symbols (token ids or words) from correct solutions; those in too few or too many solutions go; the
rest are clustered, and a cluster scores

    document frequency over solutions / mean number of occurrences inside a solution that has it

Finding: `detect` matches token ids exactly, on the device; `match_text` searches decoded text on the host.
Metric: `semantic_entropy`, the entropy of the clusters' frequencies in a batch.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

Symbols = tuple[Hashable, ...]


class Gram(NamedTuple):
    """A phrase, the cluster that it belongs to and the cluster's score."""

    symbols: Symbols
    cluster: int
    score: float


class Grams(NamedTuple):
    """Phrases as token ids, padded at the end with -1, for `detect` and `advantages.hicra(grams=...)`."""

    tokens: np.ndarray  # [N, L] int32


def mine(
    solutions: Sequence[Sequence[Hashable]],
    *,
    lengths: Sequence[int] = (3, 4, 5),
    low: float = 0.05,
    high: float = 0.8,
    clusters: int = 10,
    per_cluster: int = 3,
    embed: Callable[[list[Symbols]], np.ndarray] | None = None,
) -> list[Gram]:
    """The best clusters' most frequent grams of correct `solutions` (sequences of token ids or of words).

    Grams in less than `low` or more than `high` of the solutions are left out. `embed` gives a vector a gram, and k-means
    groups them into `clusters`; without it every gram is a cluster of its own. Best score first.
    """
    if not 0 <= low <= high <= 1:
        raise ValueError(f"mine needs 0 <= low <= high <= 1 (shares of the solutions), got {low} and {high}.")
    if not solutions or clusters < 1 or per_cluster < 1:
        raise ValueError("mine needs at least one solution, one cluster and one gram per cluster.")
    counts = [_grams(tuple(s), lengths) for s in solutions]
    frequency = Counter(gram for count in counts for gram in count)
    n = len(counts)
    grams = sorted(
        (g for g, c in frequency.items() if low <= c / n <= high), key=lambda g: (-frequency[g], g)
    )
    if not grams:
        return []
    labels = np.arange(len(grams)) if embed is None else k_means(np.asarray(embed(grams)), clusters)
    members = {int(k): [g for g, label in zip(grams, labels) if label == k] for k in np.unique(labels)}
    scores = {k: _score(counts, set(of)) for k, of in members.items()}
    best = sorted(members, key=lambda k: (-scores[k], k))[:clusters]
    return [Gram(g, i, scores[k]) for i, k in enumerate(best) for g in members[k][:per_cluster]]


def _grams(symbols: Symbols, lengths: Sequence[int]) -> Counter:
    return Counter(symbols[i : i + n] for n in lengths for i in range(len(symbols) - n + 1))


def _score(counts: list[Counter], members: set[Symbols]) -> float:
    """Share of the solutions that hold a member, over the mean number of times that those hold one."""
    held = [total for total in (sum(c[g] for g in members) for c in counts) if total]
    return (len(held) / len(counts)) / (sum(held) / len(held))


def k_means(x: np.ndarray, k: int, rounds: int = 50) -> np.ndarray:
    """Labels [N] of Lloyd's algorithm, started from the point nearest to the mean and then the farthest points."""
    x = np.asarray(x, np.float64)
    distance = lambda c: ((x[:, None] - np.asarray(c)[None]) ** 2).sum(-1)
    centres = [x[distance([x.mean(0)])[:, 0].argmin()]]
    while len(centres) < min(k, len(x)):
        centres.append(x[distance(centres).min(1).argmax()])
    for _ in range(rounds):
        labels = distance(centres).argmin(1)
        moved = [x[labels == j].mean(0) if (labels == j).any() else c for j, c in enumerate(centres)]
        if np.allclose(moved, centres):
            break
        centres = moved
    return labels


def pack(grams: Sequence[Gram | Sequence[int]]) -> Grams:
    """Grams of token ids as one padded array."""
    rows = [tuple(g.symbols if isinstance(g, Gram) else g) for g in grams]
    if not rows or any(len(row) == 0 for row in rows):
        raise ValueError("pack needs at least one gram, and no empty one.")
    width = max(len(row) for row in rows)
    return Grams(np.array([[*row, *[-1] * (width - len(row))] for row in rows], np.int32))


def detect(tokens: Int[Array, "B T"], mask: Bool[Array, "B T"], grams: Grams) -> Bool[Array, "B T"]:
    """True on every token that belongs to an exact occurrence of a gram inside the mask."""
    table = jnp.asarray(grams.tokens, tokens.dtype)
    shift = lambda x, n: jnp.pad(x, ((0, 0), (max(-n, 0), max(n, 0))))[:, max(n, 0) : x.shape[1] + max(n, 0)]
    width = table.shape[1]
    later = [(shift(tokens, j), shift(mask, j)) for j in range(width)]

    def add(found, gram):
        here = jnp.ones_like(mask)
        for j, (token, valid) in enumerate(later):
            here = here & ((gram[j] < 0) | ((token == gram[j]) & valid))
        for j in range(width):
            found = found | (shift(here, -j) & (gram[j] >= 0))
        return found, None

    found, _ = jax.lax.scan(add, jnp.zeros_like(mask), table)
    return found & mask


def match_text(
    pieces: Sequence[str], grams: Sequence[str], *, window: int = 5, tight: bool = True
) -> np.ndarray:
    """True on the tokens (their decoded `pieces`, spaces included) that spell a gram, at word boundaries, case ignored.

    From every start a window grows up to max(window, words of the longest gram) tokens until it holds a gram. `tight` marks the
    shortest such window only; an independent implementation marks from every start, so up to window - 1 tokens too many.
    """
    if not grams:
        return np.zeros(len(pieces), bool)
    pattern = re.compile("|".join(rf"(?<!\w){re.escape(g.lower())}(?!\w)" for g in grams))
    reach = max([window, *(len(g.split()) for g in grams)])
    holds = lambda s, e: pattern.search("".join(pieces[s:e]).lower()) is not None
    found = np.zeros(len(pieces), bool)
    for start in range(len(pieces)):
        ends = range(start + 1, min(start + reach, len(pieces)) + 1)
        end = next((e for e in ends if holds(start, e)), None)
        if end is not None and not (tight and holds(start + 1, end)):
            found[start:end] = True
    return found


def semantic_entropy(clusters: Sequence[int] | np.ndarray) -> float:
    """Entropy in nats of the frequencies of the clusters of all gram occurrences in a batch; 0 if there is none."""
    _, counts = np.unique(np.asarray(clusters), return_counts=True)
    p = counts / max(counts.sum(), 1)
    return float(-(p * np.log(p)).sum()) + 0.0
