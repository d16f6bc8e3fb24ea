"""Recipes that decide token by token: weights, masks and clip ranges."""

from __future__ import annotations

from entjax import (
    advantages,
    averages,
    clips,
    control,
    decoding,
    entropy_change,
    regularizers,
    rewards,
    surrogates,
    weights,
)
from entjax.loss import Objective
from entjax.recipes.bases import dapo_base, grpo_base
from entjax.transform import chain


def steer(minimum: float = 0.8, mode: str = "exp") -> Objective:
    """STEER (arXiv 2510.10150): tokens whose update would change the entropy most are damped.

    Evidence: code.

    Differs: the estimator is the paper's theorem; `steer_released` has the released code's.
    """
    return dapo_base(weights.steer(minimum, mode=mode))


def steer_released(minimum: float = 0.8) -> Objective:
    """STEER as released (zz-haooo/STEER): the code's estimator, with a floor of 0.02 under the largest score.

    Evidence: code.
    """
    return dapo_base(weights.steer(minimum, estimator=entropy_change.steer_code, floor=0.02))


def steer_exact(minimum: float = 0.8) -> Objective:
    """STEER with the exact estimator (this project): first-order entropy change of the whole softmax, rank-normalised.

    Evidence: correlation 1 with the true change in a tabular softmax.
    """
    return dapo_base(
        weights.steer(minimum, estimator=entropy_change.exact_first_order, normaliser=entropy_change.rank)
    )


def entropy_budget(
    target: control.Target = 0.2,
    kp: float = 10.0,
    ki: float = 0.2,
    maximum: float = 2.0,
    anchor: float = 0.0,
) -> Objective:
    """Entropy budget (this project): the smallest change of token weights whose predicted entropy change holds a target.

    `anchor`: coefficient of a KL (k3) to the initial policy besides. Evidence: closed-loop tests, the quickstart, docs/study.md.
    """
    terms = (regularizers.kl(anchor),) if anchor else ()
    return dapo_base(weights.entropy_budget(target, kp=kp, ki=ki, maximum=maximum), *terms)


def clip_cov(fraction: float = 2e-4, low: float = 1.0, high: float = 5.0) -> Objective:
    """Clip-Cov (arXiv 2505.22617): a few random tokens of high covariance lose their gradient.

    Evidence: code.
    """
    return grpo_base(clips.asymmetric(1.0, 1.0), weights.clip_cov(fraction, low=low, high=high))


def forking_tokens(rho: float = 0.2) -> Objective:
    """80/20 (arXiv 2506.01939): gradient only at the tokens of highest entropy.

    Evidence: code.
    """
    return dapo_base(weights.forking_tokens(rho))


def clip_b(mu: float = 2.5) -> Objective:
    """Clip_B (arXiv 2602.03392): drops negative tokens whose entropy discriminator lies far below the batch's.

    Evidence: code.
    """
    return grpo_base(after=(weights.clip_b(mu),))


def clip_v(mu: float = 8.5) -> Objective:
    """Clip_V (arXiv 2602.03392): drops negative tokens that would raise the entropy most, against the vocabulary's mean.

    Evidence: code.
    """
    return grpo_base(after=(weights.clip_v(mu),))


def attention_entropy(strength: float = 0.5, steps: int = 1000) -> Objective:
    """Anchors and explorers (Not All Tokens Learn Alike): weight moves to tokens with diffuse attention over the run.

    Evidence: abstract; the schedule is a reconstruction.
    """
    return dapo_base(weights.attention_entropy(control.linear(-strength, strength, steps)))


def agentic_aepo(a: float = 0.2) -> Objective:
    """Agentic entropy-balanced PO (arXiv 2510.14545): advantage scaled by z(entropy), a clip that keeps the gradient.

    With: strategy=agentic.

    Evidence: code.
    """
    return grpo_base(
        clips.asymmetric(0.2, 0.2), advantages.agentic_advantage(a=a), per_token=surrogates.preserve_high()
    )


def hapo(alpha: float = 1.0, beta: float = 1.0) -> Objective:
    """HAPO (arXiv 2509.16591): entropy-adaptive clip and advantage, token-level group average, adaptive temperature.

    Evidence: code.

    Differs: the sign of the low-entropy branch is as in the paper; the release has it reversed.
    """
    first = chain(advantages.hapo_average(), advantages.hapo_statistics())
    step = chain(clips.hapo(alpha=alpha), advantages.hapo_redistribution(beta=beta), averages.token_mean())
    return Objective(first, step, surrogates.dual_clip(3.0), rules=decoding.hapo)


def echo(a: float = 0.1) -> Objective:
    """ECHO (user683/ECHO): majority-vote reward, advantage by entropy and confidence, confidence clip.

    With: strategy=echo.

    Evidence: code; the released tree rollout cannot run.
    """
    step = chain(clips.echo(), advantages.echo_shaping(multiply=a), averages.token_mean())
    first = chain(rewards.majority_vote(), advantages.group_normalize())
    return Objective(first, step, surrogates.dual_clip(3.0))
