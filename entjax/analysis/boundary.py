"""The boundary of what a policy can do: pass@k of base and tuned policy over k, and the prompts that only one of them solves.

RL often raises pass@1 and lowers pass@k for large k ("Does RL really incentivize reasoning", arXiv 2504.13837): the tuned policy
finds the same answers more surely, and fewer of them. `crossing` is the k from which the base is ahead.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from entjax.analysis.passk import pass_at_k


class Boundary(NamedTuple):
    ks: list[int]
    base: np.ndarray  # pass@k
    tuned: np.ndarray
    crossing: int | None  # the first k from which on the base is ahead; None: never
    only_base: int  # prompts with a right sample of one policy and none of the other
    only_tuned: int
    both: int
    neither: int


def boundary(base: np.ndarray, tuned: np.ndarray) -> Boundary:
    """From right samples [prompts, n] (truth values) of the same prompts; k = 1, 2, 4 ... n."""
    base, tuned = np.asarray(base, bool), np.asarray(tuned, bool)
    if base.shape != tuned.shape or base.ndim != 2:
        raise ValueError(
            f"The boundary compares equally many samples of the same prompts, got {base.shape} and {tuned.shape}."
        )
    n = base.shape[1]
    ks = sorted({*(2**i for i in range(n.bit_length()) if 2**i <= n), n})
    curve = lambda right: np.array([pass_at_k(n, right.sum(1), k).mean() for k in ks])
    first, second = curve(base), curve(tuned)
    ahead = first > second
    since = next((k for i, k in enumerate(ks) if ahead[i:].all()), None)
    a, b = base.any(1), tuned.any(1)
    count = lambda x: int(x.sum())
    return Boundary(ks, first, second, since, count(a & ~b), count(b & ~a), count(a & b), count(~a & ~b))
