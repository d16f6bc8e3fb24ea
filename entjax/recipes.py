"""Recipes: a paper's method as one composition. Each is a function that returns an Objective."""

from __future__ import annotations

from entjax import advantages, averages, regularizers
from entjax.loss import Objective
from entjax.transform import chain


def grpo() -> Objective:
    """GRPO (arXiv 2402.03300): group-normalised reward, PPO clip, token mean."""
    return Objective(per_rollout=advantages.group_normalize(), per_step=averages.token_mean())


def entropy_bonus(coef: float = 1e-3) -> Objective:
    """GRPO with a constant entropy bonus."""
    return Objective(advantages.group_normalize(), chain(regularizers.entropy(coef), averages.token_mean()))
