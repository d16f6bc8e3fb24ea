"""Recipes of distillation: with `teacher=FOLDER` in the config."""

from __future__ import annotations

from entjax import averages, sft
from entjax.loss import Objective

DISTILLATION = ("distill", "opd")


def distill(reverse: float = 1.0, floor: float | None = None, stage: int = 20) -> Objective:
    """Distillation (arXiv 2605.16826): KL to a teacher over whole distributions, from reverse (1) to forward (0), no reward.

    With: teacher=FOLDER.

    Which model writes the text is up to the strategy (rollouts.taught). With `floor`, training looks at 8, 16, 32, ... first
    tokens of an answer and looks further, at the end of a stage of so many updates, only while the entropy is above the floor.

    Evidence: text.

    Differs: the ladder of lengths starts at 8 tokens instead of 128.
    """
    if floor is None:
        return sft.on_policy(reverse)
    ladder = tuple(2**power for power in range(3, 17))
    return sft.on_policy(reverse, averages.first_tokens(sft.length_curriculum(floor, ladder, stage=stage)))


def opd() -> Objective:
    """On-policy distillation (arXiv 2605.16826): log-prob of the teacher minus that of the policy as a dense reward.

    With: teacher=FOLDER.

    Evidence: text.
    """
    return sft.on_policy_reward()
