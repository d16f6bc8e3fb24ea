"""Recipes that make or change the reward."""

from __future__ import annotations

from entjax import advantages, averages, clips, rewards, surrogates, weights
from entjax.loss import Objective
from entjax.recipes.bases import grpo_base
from entjax.transform import chain


def pear(alpha: float = 1.0) -> Objective:
    """PEAR (arXiv 2510.08026): correct answers pay for entropy in the thinking phase beyond that of the answer.

    Evidence: text.
    """
    return grpo_base(before=(rewards.pear(alpha),))


def em_rl(level: str = "token") -> Objective:
    """EM-RL (arXiv 2505.15134): minimises entropy without labels; the control arm of every exploration method.

    Evidence: text.

    Differs: without the KL to the initial policy.
    """
    first = chain(rewards.em_rl(level), advantages.leave_one_out())
    return Objective(first, averages.sequence_mean_token_sum(), surrogates.reinforce)


def empo(variant: str = "trl") -> Objective:
    """EMPO (arXiv 2504.05812): rewards the answers that the group agrees on, without labels.

    Evidence: code.

    Differs: answers mean the same where their canonical forms are equal strings.
    """
    return grpo_base(before=(rewards.empo(variant),))


def ttrl() -> Objective:
    """TTRL (arXiv 2504.16084): the group's majority answer stands in for the label.

    With: strategy=votes.

    Evidence: code.

    Differs: without the KL to the initial policy.
    """
    return grpo_base(before=(rewards.majority_vote(),))


def ettrl() -> Objective:
    """ETTRL's EAR (arXiv 2508.11356): TTRL, and confident responses of a group weigh more.

    With: strategy=tree.

    Evidence: text.
    """
    return grpo_base(before=(rewards.majority_vote(),), after=(advantages.ear(),))


def ares(triggers: tuple[int, ...] = (0,), coef: float = 0.01) -> Objective:
    """ARES (arXiv 2510.08457): pays exploration at trigger words by difficulty, with a KL controller per difficulty.

    Evidence: code, which differs from the paper.

    Differs: `triggers` are token ids of the run's own vocabulary, which only its author knows; the default never fires.
    """
    return grpo_base(
        clips.asymmetric(0.2, 0.3), before=(rewards.ares_reward(triggers), rewards.ares_kl(coef))
    )


def spear() -> Objective:
    """SPEAR (arXiv 2509.22601): tool-use bonus that decays, self-imitation of replayed successes, Clip-Cov.

    With: strategy=replay, which it brings for an eighth of a batch; in a config around a strategy with tools.

    Evidence: code.

    Differs: replayed rows (strategy=rollouts.replay()) share the step with fresh ones; mean over tokens; groups are not chosen by
    the spread of their rewards.
    """
    first = chain(
        rewards.tool_use(),
        advantages.group_normalize(std=False),
        advantages.replay_baseline(),
        advantages.replay_weight(),
    )
    step = chain(clips.asymmetric(0.2, 0.28), weights.clip_cov(), averages.token_mean())
    return Objective(first, step)


def empo_reasoning() -> Objective:
    """EMPO for free-form answers (arXiv 2504.05812): agreement of meaning, nothing for copies of the question.

    Evidence: code.

    Differs: answers mean the same where their canonical forms are equal strings, without a judging model.
    """
    return grpo_base(before=(rewards.empo("reasoning"),))
