"""The exchange of entropy for reward: R = -a e^H + b  (Cui et al., "The Entropy Mechanism", arXiv 2505.22617).

Linear in (a, b) once H is known: least squares of R on (-e^H, 1). The ceiling b - a is the reward that is left when the entropy
is spent (H = 0). Weights of 0 drop the warm-up.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Law(NamedTuple):
    a: float
    b: float
    ceiling: float  # R at H = 0
    rmse: float  # weighted root mean square of the residuals
    r2: float  # 1 - weighted SS_res / SS_tot, NaN where R does not vary

    def at(self, entropy: np.ndarray) -> np.ndarray:
        """The reward that the law predicts."""
        return self.b - self.a * np.exp(entropy)


def fit(entropy: np.ndarray, reward: np.ndarray, weights: np.ndarray | None = None) -> Law:
    """The law of a run's entropies and rewards [n]."""
    h, r = np.asarray(entropy, np.float64), np.asarray(reward, np.float64)
    w = np.ones_like(h) if weights is None else np.asarray(weights, np.float64)
    if len(np.unique(h[w > 0])) < 2:
        raise ValueError(
            f"A line needs at least two different entropies, got {np.unique(h[w > 0]).tolist()}."
        )
    share = w / w.sum()
    x = -np.exp(h)
    mean_x, mean_r = (share * x).sum(), (share * r).sum()
    a = (share * (x - mean_x) * (r - mean_r)).sum() / (share * (x - mean_x) ** 2).sum()
    b = mean_r - a * mean_x
    left, total = (share * (r - a * x - b) ** 2).sum(), (share * (r - mean_r) ** 2).sum()
    r2 = 1 - left / total if np.ptp(r[w > 0]) > 0 else float("nan")
    return Law(float(a), float(b), float(b - a), float(np.sqrt(left)), float(r2))
