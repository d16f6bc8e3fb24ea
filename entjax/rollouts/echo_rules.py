"""The decisions of ECHO's sampler (user683/ECHO, DeepConf branching) on the top candidates of a completion; NumPy only.

p_tj = top-K probabilities renormalised,  H_t = -sum_j p log p,  conf_t = -mean of log p over the k_c likeliest
group_t, tail_t = mean of the last W_g, W_t confidences,  dH_t = H_t - mean of the previous W_e entropies (0 at t = 0)

branch at the first t >= min(min_depth, T - 1) with H_t >= H_high, group_t <= c_b, dH_t >= d_min
width  = clip(round(B_min + alpha (H - H_low)/(H_high - H_low) - beta (group - c_b)/|c_b|), B_min, B_max); <= 1: no branch
prune  at the first t where the running minimum of group_t < c_p, or tail_t has fallen n_tail times in a row and is <= c_t,
       or dH_t > 0 for n_rise steps in a row and dH_t > d_max
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

TINY = 1e-9


class EchoRules(NamedTuple):
    """Thresholds under the names of the release. Those without a default depend on the model: with the released
    ones (high 3.5, branch 1.2, K 10, k_c 5) no branch is possible, because H <= ln K and conf >= ln k_c."""

    entropy_high: float
    branch_threshold: float  # c_b
    entropy_low: float = 1.0
    entropy_delta_threshold: float = 0.2  # d_min
    prune_threshold: float = 0.4  # c_p
    tail_threshold: float = 1.0  # c_t
    min_depth: int = 4
    entropy_window: int = 4
    group_window: int = 4
    tail_window: int = 8
    tail_decline_steps: int = 3
    delta_rise_steps: int = 3
    delta_upper: float = 0.5  # d_max
    min_branches: int = 1
    max_branches: int = 4
    logprob_top_k: int = 10
    confidence_top_k: int = 5
    alpha: float = 2.0
    beta: float = 1.0

    def check(self) -> EchoRules:
        """Itself, or a sentence about rules that mean nothing or can never fire."""
        if not self.entropy_low < self.entropy_high or self.branch_threshold == 0:
            raise ValueError(
                f"echo needs entropy_low < entropy_high and branch_threshold != 0, got {self.entropy_low}, "
                f"{self.entropy_high}, {self.branch_threshold}."
            )
        windows = (
            self.entropy_window,
            self.group_window,
            self.tail_window,
            self.logprob_top_k,
            self.confidence_top_k,
        )
        if min(windows) < 1 or self.min_depth < 0:
            raise ValueError(
                f"echo needs windows and numbers of candidates from 1 and min_depth from 0, got {self}."
            )
        if self.entropy_high > np.log(self.logprob_top_k):
            raise ValueError(
                f"entropy_high={self.entropy_high} is above ln {self.logprob_top_k} = {np.log(self.logprob_top_k):.2f}, the "
                "largest entropy of so many candidates: no branch could start."
            )
        if self.branch_threshold < np.log(self.confidence_top_k):
            raise ValueError(
                f"branch_threshold={self.branch_threshold} is below ln {self.confidence_top_k} = "
                f"{np.log(self.confidence_top_k):.2f}, the smallest confidence of so many candidates: no branch could start."
            )
        return self


class Statistics(NamedTuple):
    """[T] of a completion."""

    entropy: np.ndarray
    confidence: np.ndarray
    group: np.ndarray
    tail: np.ndarray
    delta: np.ndarray


def statistics(top_logp: np.ndarray, rules: EchoRules) -> Statistics:
    """From the log-probs [T, K] of the candidates, in any order."""
    logp = -np.sort(-np.asarray(top_logp, np.float64), axis=1)[:, : rules.logprob_top_k]
    p = np.exp(logp - logp.max(axis=1, keepdims=True, initial=-np.inf))
    p = p / p.sum(axis=1, keepdims=True)
    floored = np.maximum(p, TINY)
    entropy = -np.sum(floored * np.log(floored), axis=1)
    confidence = -np.mean(np.log(p[:, : rules.confidence_top_k] + TINY), axis=1)
    before = [entropy[max(0, t - rules.entropy_window) : t] for t in range(len(entropy))]
    delta = np.array([h - past.mean() if len(past) else 0.0 for h, past in zip(entropy, before, strict=True)])
    return Statistics(
        entropy,
        confidence,
        _trailing(confidence, rules.group_window),
        _trailing(confidence, rules.tail_window),
        delta,
    )


def branch(stats: Statistics, rules: EchoRules) -> tuple[int, int]:
    """(position, width) of the only branching point of a completion; (-1, 0) if it has none."""
    T = len(stats.entropy)
    for t in range(max(0, min(rules.min_depth, T - 1)), T):
        high = stats.entropy[t] >= rules.entropy_high and stats.delta[t] >= rules.entropy_delta_threshold
        if high and stats.group[t] <= rules.branch_threshold:
            wide = width(stats.entropy[t], stats.group[t], rules)
            return (t, wide) if wide > 1 else (-1, 0)
    return -1, 0


def width(entropy: float, group: float, rules: EchoRules) -> int:
    """How many of the likeliest tokens are followed."""
    uncertain = rules.alpha * (entropy - rules.entropy_low) / (rules.entropy_high - rules.entropy_low)
    sharp = rules.beta * (group - rules.branch_threshold) / abs(rules.branch_threshold)
    return int(
        np.clip(np.round(rules.min_branches + uncertain - sharp), rules.min_branches, rules.max_branches)
    )


def prune(stats: Statistics, rules: EchoRules) -> tuple[int, str]:
    """(position, reason) at which a completion is given up; (-1, "none") if it is not."""
    lowest, declines, rises = np.inf, 0, 0
    for t in range(len(stats.entropy)):
        lowest = min(lowest, stats.group[t])
        declines = declines + 1 if t and stats.tail[t] < stats.tail[t - 1] else 0
        rises = rises + 1 if stats.delta[t] > 0 else 0
        if lowest < rules.prune_threshold:
            return t, "low_confidence"
        if declines >= rules.tail_decline_steps and stats.tail[t] <= rules.tail_threshold:
            return t, "tail_decline"
        if rises >= rules.delta_rise_steps and stats.delta[t] > rules.delta_upper:
            return t, "entropy_spike"
    return -1, "none"


def _trailing(x: np.ndarray, window: int) -> np.ndarray:
    return np.array([x[max(0, t - window + 1) : t + 1].mean() for t in range(len(x))])
