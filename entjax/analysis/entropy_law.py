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


class Forecast(NamedTuple):
    law: Law  # fitted to the first points only
    points: int  # how many those are
    error: float  # root mean square of what it misses later
    constant: float  # the same for "it stays as it is now": the mean of the points seen
    r2: float  # of the forecast over the later points; negative where a constant would have been better


def forecast(entropy: np.ndarray, reward: np.ndarray, share: float = 1 / 3) -> Forecast:
    """Fit the law to the first `share` of a run and ask it for the reward at the entropies that came later."""
    h, r = np.asarray(entropy, np.float64), np.asarray(reward, np.float64)
    n = max(2, round(share * len(h)))
    if not n < len(h):
        raise ValueError(f"A forecast needs points after the first {n}, got {len(h)} in all.")
    law = fit(h[:n], r[:n])
    left, later = r[n:] - law.at(h[n:]), r[n:]
    rms = lambda x: float(np.sqrt((x**2).mean()))
    total = ((later - later.mean()) ** 2).sum()
    r2 = 1 - (left**2).sum() / total if total > 0 else float("nan")
    return Forecast(law, n, rms(left), rms(later - r[:n].mean()), float(r2))
