"""Entropies of representations: how many directions a matrix of features [n, d] really uses.

    RankMe             exp(-sum p log p), p = sigma / sum sigma + 1e-7, singular values of X uncentred (Garrido et al. 2023)
    effective rank     exp(-sum p log p), p = eigenvalues of the centred covariance / their sum
    alpha-ReQ          minus the slope of log eigenvalue on log index over indices first..last, 1-based
    matrix entropy     -sum p log p, p = eigenvalues of X X' / their sum, X uncentred (nats)
    diffusion (DSE)    -sum p log2 p, p = |eig K|^t / sum + 2.2e-16, K = D^-1/2 G D^-1/2, G_ij = exp(-|x_i - x_j|^2 / 2 sigma^2)

DSE is in bits and depends on the scale of the features: standardise them first. The window of alpha-ReQ is a convention.
"""

from __future__ import annotations

import numpy as np


def rankme(features: np.ndarray) -> float:
    """Between 1 and min(n, d)."""
    sigma = np.linalg.svd(np.asarray(features, np.float64), compute_uv=False)
    p = sigma / sigma.sum() + 1e-7
    return float(np.exp(-(p * np.log(p)).sum()))


def covariance_eigenvalues(features: np.ndarray) -> np.ndarray:
    """Of the centred covariance (divided by n), descending."""
    x = np.asarray(features, np.float64)
    x = x - x.mean(0)
    return np.linalg.eigvalsh(x.T @ x / len(x))[::-1]


def effective_rank(features: np.ndarray) -> float:
    """Between 1 and min(n - 1, d)."""
    return float(np.exp(_entropy(covariance_eigenvalues(features))))


def alpha_req(features: np.ndarray, first: int, last: int) -> float:
    """The decay exponent of the spectrum; 1 is the boundary between flat and compressed."""
    eigenvalues = covariance_eigenvalues(features)
    if not 1 <= first < last <= len(eigenvalues):
        raise ValueError(f"alpha_req needs 1 <= first < last <= {len(eigenvalues)}, got {first} and {last}.")
    index = np.arange(first, last + 1)
    return -float(np.polyfit(np.log(index), np.log(eigenvalues[first - 1 : last]), 1)[0])


def matrix_entropy(features: np.ndarray) -> float:
    """Von Neumann entropy of the Gram matrix in nats."""
    return _entropy(np.linalg.svd(np.asarray(features, np.float64), compute_uv=False) ** 2)


def diffusion_entropy(features: np.ndarray, sigma: float = 10.0, t: int = 1) -> float:
    """Diffusion spectral entropy in bits after `t` steps of the diffusion."""
    x = np.asarray(features, np.float64)
    square = (x**2).sum(-1)
    distance = np.maximum(square[:, None] + square[None, :] - 2 * x @ x.T, 0)
    kernel = np.exp(-distance / (2 * sigma**2))
    root = 1 / np.sqrt(kernel.sum(-1))
    eigenvalues = np.abs(np.linalg.eigvalsh(root[:, None] * kernel * root[None, :])) ** t
    p = eigenvalues / eigenvalues.sum() + np.finfo(np.float64).eps
    return -float((p * np.log2(p)).sum())


def _entropy(values: np.ndarray) -> float:
    p = np.maximum(values, 0) / np.maximum(values, 0).sum()
    return -float((p * np.log(np.where(p > 0, p, 1))).sum())
