"""Recipes that reshape the advantage, of a group, a sequence or a token."""

from __future__ import annotations

from entjax import advantages, averages, clips, control, regularizers
from entjax.loss import Objective
from entjax.recipes.bases import dapo_base, grpo_base
from entjax.transform import chain


def rwe(alpha: float = 0.4, kappa: float = 2.0) -> Objective:
    """Reasoning with exploration (arXiv 2506.14758): a bounded bonus of the token's entropy on its advantage.

    Evidence: independent code.

    Differs: the entropy is the behaviour policy's, once a rollout.
    """
    return grpo_base(after=(advantages.entropy_bonus(alpha=alpha, kappa=kappa),))


def qae(level: float = 0.4) -> Objective:
    """QAE (arXiv 2509.22611): a quantile of the group's rewards as baseline, so that one sign learns per prompt.

    Evidence: code, as quoted by the authors.

    Differs: right-continuous quantile as in the paper; the release interpolates.
    """
    return grpo_base(clips.asymmetric(0.2, 0.28), baseline=advantages.quantile(level))


def seed(alpha: float = 0.02) -> Objective:
    """SEED-GRPO (arXiv 2505.12346): prompts with high semantic entropy learn less.

    Evidence: text and independent code.

    Differs: answers mean the same where their canonical forms are equal strings.
    """
    return grpo_base(baseline=advantages.group_normalize(std=False), after=(advantages.seed(alpha),))


def canon(mu: float = 1.0) -> Objective:
    """CANON (arXiv 2509.23962): rewards compared between the low- and high-entropy halves of a group.

    Evidence: code.
    """
    return grpo_base(clips.asymmetric(0.2, 0.28), baseline=advantages.canon(mu=mu))


def empg(k: float = 1.0, zeta: float = 0.1) -> Objective:
    """EMPG (arXiv 2509.09265): steps weigh by their confidence, with a bonus for a clear next step.

    Evidence: the authors' pseudo-code.

    Differs: without an environment a step ends with a comma, full stop, semicolon or line.
    """
    return grpo_base(after=(advantages.empg(k=k, zeta=zeta),))


def hicra(alpha: float = 0.2) -> Objective:
    """HICRA (arXiv 2509.03646): planning tokens get more credit and less blame.

    Evidence: text and independent code.

    Differs: planning tokens are nine English phrases (rollouts/inputs.py), where the paper mines its strategic grams.
    """
    return grpo_base(baseline=advantages.group_normalize(std=False), after=(advantages.hicra(alpha=alpha),))


def erpo(gamma: float = 1.0, lam: float = 0.5) -> Objective:
    """ERPO (arXiv 2603.28204): entropy-gated token credit from the progress against the reference. Experimental.

    Evidence: abstract; a reconstruction.
    """
    return grpo_base(advantages.erpo(gamma=gamma, lam=lam))


def dgpo(kappa: float = 1.0, tau: float = 0.5) -> Objective:
    """DGPO (arXiv 2605.03327): credit to tokens where the policy left the reference, gated by entropy; no KL loss.

    Evidence: independent code.
    """
    step = chain(advantages.dgpo(kappa=kappa, tau=tau), averages.sequence_mean_token_mean())
    return Objective(advantages.group_normalize(), step)


def explore_perplexity(alpha: float = 0.01) -> Objective:
    """Low-perplexity shaping (arXiv 2508.07534): fluent answers of a group weigh more.

    Evidence: code.

    Differs: the release computes this weight and does not multiply it in.
    """
    return grpo_base(clips.asymmetric(0.2, 0.28), after=(advantages.explore_perplexity(alpha=alpha),))


def explore_position(alpha: float = 0.1) -> Objective:
    """Position shaping (arXiv 2508.07534): late tokens get a bonus in the direction of their advantage.

    Evidence: code.

    Differs: at every step, where the paper has it between steps 200 and 300 (`during(201, 300, ...)`).
    """
    return grpo_base(clips.asymmetric(0.2, 0.28), after=(advantages.explore_position(alpha=alpha),))


def dcpo(target: float = 0.5) -> Objective:
    """DCPO, distribution-centric (597358816/DCPO): mixes in the ratio to a flatter or sharper policy, chosen by the entropy.

    Evidence: code.

    Differs: without the dual clip.
    """
    return grpo_base(after=(advantages.dcpo(target=target),))


def divergence_weights(alpha: float = 5.0) -> Objective:
    """Sparse but critical (paper's divergence-weighted advantage): tokens weigh by how far they moved from the old policy.

    Evidence: text; scale and slope are ours.
    """
    return dapo_base(advantages.divergence_weights(alpha=alpha))


def entropic(
    target: control.Target = 0.1, kp: float = 1.0, ki: float = 0.01, threshold: float = 0.95
) -> Objective:
    """EntroPIC (arXiv 2511.15248): PI control of the weights of positive and negative tokens.

    Evidence: code.

    Differs: without the dual clip; weights inside the PPO sum, as in the paper;
    `regularizers.entropic(form="released")` has the separate term.
    """
    return grpo_base(regularizers.entropic(target, kp=kp, ki=ki, threshold=threshold))


def entrocraft(start: float = 0.6, end: float = 0.2, width: float = 0.1, steps: int = 1000) -> Objective:
    """Entrocraft (arXiv 2604.26326): rejects the advantages of one sign while the entropy is outside a scheduled band.

    Evidence: code and text.

    Differs: filters any estimator's advantage, as in the paper; the release swaps in the raw reward. The band is the paper's for
    GSPO, on GRPO.
    """
    low, high = control.linear(start, end, steps), control.linear(start + width, end + width, steps)
    return grpo_base(after=(advantages.entrocraft(low, high, steps=steps),))


def canon_length(alpha: float = 0.9) -> Objective:
    """CANON by length (arXiv 2509.23962): compares long with short answers; alpha below 1 favours the short ones.

    Evidence: code.
    """
    return grpo_base(clips.asymmetric(0.2, 0.28), baseline=advantages.canon("length", alpha=alpha))


def canon_dynamic() -> Objective:
    """CANON with its schedule (arXiv 2509.23962): within the halves while accuracy is low, across them as it rises.

    Evidence: code (`annel`).
    """
    return grpo_base(clips.asymmetric(0.2, 0.28), baseline=advantages.canon(mu="accuracy"))


def entropic_balance(target: float = 0.5) -> Objective:
    """EntroPIC on the advantages (lblaoke/entrocraft): right answers weigh 1 + alpha, wrong ones 1 - alpha, under PI control.

    Evidence: independent code.
    """
    first = chain(advantages.raw(baseline=0.5, scale=2.0), advantages.entropic_balance(target))
    return Objective(first, averages.token_mean())
