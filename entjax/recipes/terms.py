"""Recipes that add a differentiable term to the loss: entropy, or a divergence from another policy."""

from __future__ import annotations

from entjax import advantages, averages, clips, control, kl, regularizers, rewards, surrogates
from entjax.loss import Objective
from entjax.recipes.bases import grpo_base
from entjax.transform import chain


def entropy_bonus(coef: float = 1e-3) -> Objective:
    """GRPO with entropy bonus (baseline): a constant coefficient on the policy's entropy.

    Evidence: code (verl).
    """
    return grpo_base(regularizers.entropy(coef))


def entropy_pi(target: float = 0.5, kp: float = 0.1, ki: float = 0.01, high: float = 0.1) -> Objective:
    """Entropy bonus under PI control (this project): the coefficient holds the measured entropy at a target.

    Evidence: closed-loop tests, docs/controllers.md.
    """
    return grpo_base(regularizers.entropy(control.pi(target=target, kp=kp, ki=ki, low=0.0, high=high)))


def skywork(target: float = 0.2, delta: float = 1e-4, high: float = 5e-3) -> Objective:
    """Skywork-OR1 (arXiv 2505.22312): the bonus' coefficient moves by a fixed step, off above the target.

    Evidence: code.
    """
    return grpo_base(regularizers.entropy(control.skywork(target, delta=delta, high=high)))


def siren(coef: float = 5e-3, top_p: float = 0.8, quantile: float = 0.8) -> Objective:
    """SIREN (arXiv 2509.25133): entropy of the nucleus at peak tokens, pulled to its own initial value.

    Evidence: code.

    Differs: the nucleus includes the token that crosses top_p, as in the paper; mean over tokens instead of sequences.
    """
    step = chain(
        regularizers.siren(coef, top_p=top_p, quantile=quantile, include_crossing=True), averages.token_mean()
    )
    return Objective(advantages.group_normalize(std=False), step, surrogates.dual_clip(3.0))


def targeted_entropy(coef: float = 1e-3, target: float = 0.55) -> Objective:
    """Confucius3-Math TER (arXiv 2506.18330): the distance of the mean entropy from a target; hardness-weighted advantage.

    Evidence: text.

    Differs: mean over tokens; groups of equal rewards stay, with advantage 0.
    """
    step = chain(regularizers.targeted_entropy(coef, target=target), averages.token_mean())
    return Objective(advantages.hardness(), step)


def kl_cov(ratio: float = 2e-4, coef: float = 1.0) -> Objective:
    """KL-Cov (arXiv 2505.22617): a KL penalty on the tokens with the highest covariance of advantage and log-probability.

    Evidence: code.
    """
    return grpo_base(clips.unclipped(), regularizers.kl_cov(ratio, coef))


def lp_reg(coef: float = 1.0, kappa: float = 0.02, rho: float = 0.01) -> Objective:
    """Lp-Reg (arXiv 2510.03222): low-probability tokens with negative advantage are held at a min-p filtered proxy.

    Evidence: code.
    """
    return grpo_base(clips.asymmetric(1.0, 9.0), regularizers.lp_reg(coef, kappa=kappa, rho=rho))


def aepo(target: float = 0.5, samples: int = 60) -> Objective:
    """AEPO, arbitrary entropy (arXiv 2510.08141): REINFORCE on successes sampled at a temperature chosen by the entropy.

    With: strategy=tempered, which it brings.

    Evidence: code.

    Differs: which rows are exchanged is drawn at random; without the dual clip.
    """
    return grpo_base(after=(regularizers.aepo(target, samples=samples, choose="random"),))


def epo(coef: float = 1e-3) -> Objective:
    """EPO (arXiv 2509.22576): entropy bonus with a band around the entropy's own history.

    Evidence: code and text.

    Differs: the released penalty is a constant and has no gradient; here it is differentiated, as in the paper.
    """
    return grpo_base(regularizers.epo(coef))


def tea(coef: float = 1e-3) -> Objective:
    """Light-IF's TEA (arXiv 2508.03178): entropy bonus on the tokens with high covariance.

    Evidence: code, of a branch that the release never runs.

    Differs: the token weights are detached.
    """
    return grpo_base(regularizers.tea(coef))


def dsdr(lambda_d: float = 1e-3, coef: float = 1e-3) -> Objective:
    """DSDR (arXiv 2602.19895): a reward for answers unlike the group's, and an entropy term on those that are right.

    Evidence: text.

    Differs: unlike by hashed character trigrams and sets of steps, where the paper embeds texts.
    """
    return grpo_base(regularizers.dsdr_local(coef), before=(rewards.dsdr(lambda_d),))


def t1(beta: float = 2e-4, coef: float = 1e-3, decay: float = 0.99) -> Objective:
    """T1 (arXiv 2501.11651): RLOO, centred KL in the reward against a moving reference, entropy bonus.

    Evidence: text; entropy coefficient and decay are ours.
    """
    first = chain(rewards.kl_reward(beta, centred=True), advantages.leave_one_out(singleton="zero"))
    step = chain(regularizers.entropy(coef), averages.token_mean())
    return Objective(first, step, surrogates.reinforce, reference_decay=decay)


def safe() -> Objective:
    """SAFE (ryyzn9/SAFE): a KL penalty that opens with low entropy, its threshold under PID control of the reward.

    Evidence: code.

    Differs: the released penalty is a number without gradient; here it multiplies a differentiable KL.
    """
    return grpo_base(regularizers.safe())


def entropy_trl(target: float = 0.2, delta: float = 5e-3, high: float = 1.0) -> Objective:
    """TRL's adaptive entropy coefficient (TRL): moves by a fixed step, off above the target; fed with the exact entropy.

    Evidence: code.
    """
    return grpo_base(regularizers.entropy(control.trl_adaptive(target, delta=delta, high=high)))


def kl_adaptive(target: float = 0.1, horizon: float = 10_000) -> Objective:
    """Adaptive KL coefficient (arXiv 1909.08593): k3 penalty, its coefficient grows while the divergence is above a target.

    Evidence: code (verl).
    """
    return grpo_base(regularizers.kl(kl.adaptive(target=target, horizon=horizon)))


def kl_target(target: float = 0.1, kp: float = 0.1, ki: float = 0.01, high: float = 1.0) -> Objective:
    """KL under PI control (this project): the coefficient holds the divergence from the initial policy at a target.

    Evidence: a closed loop in tests/regularizers.
    """
    return grpo_base(regularizers.kl(control.pi(target=target, kp=-kp, ki=-ki, high=high)))


def full_kl(coef: float = 1e-3, direction: str = "reverse") -> Objective:
    """GRPO with the exact KL (this project): over the whole vocabulary instead of an estimate at the sampled token.

    Evidence: compared with sums in float64 and with the sampled estimates.
    """
    return grpo_base(regularizers.full_kl(coef, direction=direction))
