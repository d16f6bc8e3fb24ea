"""How much n answers to one question disagree: semantic entropy (Kuhn et al. 2023; Farquhar et al. 2024) and SNNE (2025).

    discrete          -sum_c f_c log f_c                  f_c the share of cluster c
    by likelihood     -sum_c p_c log p_c                  p_c = sum over i in c of exp(ll_i) / sum_j exp(ll_j)
    predictive        -mean_i ll_i                        ll_i the length-normalised log-likelihood of answer i
    SNNE              -(1/n) sum_i log sum_j exp(s_ij / tau)         s_ij a similarity, ROUGE-L in the paper; j = i included

Nats. SNNE needs no clusters and only ranks: the lower, the more alike. For verifiable rewards a cluster is a canonical answer.
During training `rewards.clusters` computes the first two for all groups of a batch at once.
"""

from __future__ import annotations

import numpy as np

EMPTY = float(np.log(1e-8))  # the log of an empty sum (released code)


def discrete(labels: np.ndarray) -> float:
    """Entropy of the cluster frequencies."""
    counts = np.unique(np.asarray(labels), return_counts=True)[1]
    return _entropy(counts / counts.sum())


def cluster_logprobs(labels: np.ndarray, log_likelihood: np.ndarray) -> np.ndarray:
    """log p_c of the clusters in ascending order of their labels."""
    ll = np.asarray(log_likelihood, np.float64)
    labels = np.asarray(labels)
    p = np.exp(ll - ll.max())
    p /= p.sum()
    return np.log([p[labels == label].sum() for label in np.unique(labels)])


def by_likelihood(labels: np.ndarray, log_likelihood: np.ndarray) -> float:
    """Entropy of the clusters weighted by likelihood."""
    return _entropy(np.exp(cluster_logprobs(labels, log_likelihood)))


def predictive(log_likelihood: np.ndarray) -> float:
    """Minus the mean log-likelihood."""
    return -float(np.mean(log_likelihood))


def likelihood_weights(log_likelihood: np.ndarray) -> np.ndarray:
    """exp(ll) / mean exp(ll), for the weighted SNNE."""
    p = np.exp(np.asarray(log_likelihood, np.float64))
    return p / p.mean()


def snne(
    similarity: np.ndarray,
    labels: np.ndarray | None = None,
    *,
    tau: float = 1.0,
    variant: str = "only_denom",
    itself: bool = True,
    weights: np.ndarray | None = None,
) -> float:
    """-(1/n) sum_i w_i x_i with x_i the log-sum over all j ("only_denom", the paper), over the j of i's cluster ("only_num"), or
    their difference, cluster minus all ("full"). `itself=False` leaves j = i out of the sums."""
    if variant not in ("only_denom", "only_num", "full"):
        raise ValueError(f"snne's variant must be 'only_denom', 'only_num' or 'full', got {variant!r}.")
    if not tau > 0:
        raise ValueError(f"snne needs tau > 0, got {tau}.")
    s = np.asarray(similarity, np.float64) / tau
    n = len(s)
    others = np.ones((n, n), bool) if itself else ~np.eye(n, dtype=bool)
    whole = _log_sum(s, others)
    if variant == "only_denom":
        x = whole
    else:
        if labels is None:
            raise ValueError(f"snne's variant '{variant}' compares with the answer's cluster: pass labels.")
        same = np.asarray(labels)[:, None] == np.asarray(labels)[None, :]
        cluster = _log_sum(s, others & same)
        x = cluster if variant == "only_num" else cluster - whole
    return -float(np.mean(x if weights is None else np.asarray(weights) * x))


def _log_sum(s: np.ndarray, among: np.ndarray) -> np.ndarray:
    top = np.where(among, s, -np.inf).max(-1)
    top = np.where(np.isfinite(top), top, 0)
    total = np.where(among, np.exp(s - top[:, None]), 0).sum(-1)
    return np.where(total > 0, np.log(np.where(total > 0, total, 1)) + top, EMPTY)


def _entropy(p: np.ndarray) -> float:
    p = p[p > 0]
    return -float((p * np.log(p)).sum()) + 0.0
