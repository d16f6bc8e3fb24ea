"""DiffAdapt: which inference strategy a question deserves, from some samples of it (Difficulty-Adaptive Reasoning).

    NORMAL  accuracy >= alpha and mean entropy <= beta;      HARD  else, accuracy < gamma;      EASY  else

The paper trains a small probe on the hidden state behind the prompt to predict these labels; ten samples of a question make one.
Its strategies: easy questions get a cooler policy and less room, hard ones fail fast. The thresholds are not published.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

EASY, NORMAL, HARD = 0, 1, 2


class Strategy(NamedTuple):
    temperature: float
    share: float  # of the longest completion


STRATEGIES = (Strategy(0.5, 0.4), Strategy(0.8, 1.0), Strategy(0.4, 0.5))  # by label


def strategy_labels(
    accuracy: np.ndarray, entropy: np.ndarray, *, alpha: float, beta: float, gamma: float
) -> np.ndarray:
    """Labels of questions from the accuracy of their samples and the mean token entropy in nats of those."""
    if not 0 <= gamma <= alpha <= 1:
        raise ValueError(f"strategy_labels needs 0 <= gamma <= alpha <= 1, got gamma={gamma}, alpha={alpha}.")
    accuracy = np.asarray(accuracy)
    normal = (accuracy >= alpha) & (np.asarray(entropy) <= beta)
    return np.where(normal, NORMAL, np.where(accuracy < gamma, HARD, EASY))
