"""Recipes of the plain policy gradients: their baselines, ratios and averages."""

from __future__ import annotations

from entjax import advantages, averages, clips, regularizers, rewards, surrogates, weights
from entjax.loss import Objective
from entjax.recipes.bases import dapo_base, grpo_base
from entjax.transform import chain


def grpo() -> Objective:
    """GRPO (arXiv 2402.03300): group-normalised reward, PPO clip, token mean.

    Evidence: code (verl).

    Differs: mean over all tokens, verl's default, where the paper averages over each answer first; no KL (recipe grpo_kl).
    """
    return grpo_base()


def dr_grpo(length: float = 1024) -> Objective:
    """Dr.GRPO (arXiv 2503.20783): no division by the group's spread, constant length instead of the row's own.

    With: recipe.length at the run's max_new_tokens; it scales the loss.

    Evidence: code (verl, TRL).
    """
    return Objective(advantages.group_normalize(std=False), averages.constant_length(length))


def dapo(max_length: int = 20480, buffer: int = 4096) -> Objective:
    """DAPO (arXiv 2503.14476): clip-higher, token mean, overlong shaping in tokens.

    With: dynamic_sampling=N; recipe.max_length at the run's max_new_tokens, beyond which no answer is too long.

    Evidence: code (verl).

    Differs: the length penalty has a floor at -1, as in the paper.
    """
    return dapo_base(before=(rewards.overlong(max_length, buffer=min(buffer, max_length)),))


def rloo() -> Objective:
    """RLOO (arXiv 2402.14740): the mean of the others as baseline, plain policy gradient.

    Evidence: code (verl, TRL).
    """
    return Objective(advantages.leave_one_out(), averages.sequence_mean_token_sum(), surrogates.reinforce)


def reinforce() -> Objective:
    """REINFORCE (Williams 1992): reward times log-probability.

    Evidence: textbook.
    """
    return Objective(advantages.raw(), averages.token_mean(), surrogates.reinforce)


def reinforce_pp() -> Objective:
    """REINFORCE++ (arXiv 2501.03262): returns whitened over the batch, PPO clip.

    Evidence: code (verl).
    """
    return Objective(advantages.reinforce_pp(), averages.token_mean())


def reinforce_pp_baseline() -> Objective:
    """REINFORCE++-baseline (arXiv 2501.03262): group mean as baseline, whitened over the batch's tokens.

    Evidence: code (verl).
    """
    return Objective(advantages.reinforce_pp_baseline(), averages.token_mean())


def opo() -> Objective:
    """OPO (arXiv 2505.23585): length-weighted optimal baseline, strictly on-policy.

    Evidence: code (verl).
    """
    return Objective(advantages.opo(), averages.token_mean(), surrogates.reinforce)


def gpg() -> Objective:
    """GPG (arXiv 2504.02546): centred reward rescaled by the share of informative samples, no clip.

    Evidence: code (verl).
    """
    return Objective(advantages.gpg(), averages.token_mean(), surrogates.reinforce)


def remax() -> Objective:
    """ReMax (arXiv 2310.10505): the reward of the greedy answer as baseline.

    Evidence: code (verl).
    """
    return Objective(advantages.remax(), averages.token_mean(), surrogates.reinforce)


def pass_at_k() -> Objective:
    """Pass@k advantage (arXiv 2503.19595): only the best sample of a group learns, by its lead over the second.

    Evidence: code (verl).
    """
    return Objective(advantages.pass_at_k(), averages.token_mean())


def otb() -> Objective:
    """Optimal token baseline (verl): a baseline per token from the accumulated gradient energy of the group.

    Evidence: code (verl).
    """
    return Objective(advantages.otb(), averages.token_mean(), surrogates.reinforce)


def cispo(maximum: float = 5.0) -> Objective:
    """CISPO (arXiv 2506.13585): the ratio is capped as a constant weight, no token loses its gradient.

    Evidence: code (verl, TRL).
    """
    return Objective(
        advantages.group_normalize(), chain(clips.cap(maximum), averages.token_mean()), surrogates.cispo
    )


def gspo(low: float = 3e-4, high: float = 4e-4) -> Objective:
    """GSPO (arXiv 2507.18071): ratio and clip of the whole sequence.

    Evidence: code (verl).
    """
    step = chain(clips.asymmetric(low, high), averages.sequence_mean_token_mean())
    return Objective(advantages.group_normalize(), step, surrogates.gspo)


def gmpo() -> Objective:
    """GMPO (arXiv 2507.20673): geometric mean of the token ratios, clipped in the logarithm.

    Evidence: code (verl).
    """
    step = chain(clips.geometric(0.4, 0.4), averages.sequence_mean_token_mean())
    return Objective(advantages.group_normalize(), step, surrogates.gmpo)


def sapo() -> Objective:
    """SAPO (arXiv 2511.20347): a soft gate on the ratio instead of a clip.

    Evidence: code (verl).
    """
    return Objective(advantages.group_normalize(), averages.sequence_mean_token_mean(), surrogates.sapo())


def vespo() -> Objective:
    """VESPO (TRL): a smooth weight of the sequence ratio.

    Evidence: code (TRL).
    """
    return Objective(advantages.group_normalize(), averages.token_mean(), surrogates.vespo)


def mismatch_corrected(threshold: float = 2.0) -> Objective:
    """Truncated importance sampling (verl): GRPO with weights for the sampler/trainer mismatch.

    Evidence: code (verl).
    """
    return grpo_base(weights.importance(threshold=threshold))


def grpo_kl(coef: float = 1e-3) -> Objective:
    """GRPO with KL loss (arXiv 2402.03300): k3 penalty towards the frozen initial policy.

    Evidence: code (verl, TRL).
    """
    return grpo_base(regularizers.kl(coef))


def luspo(low: float = 3e-4, high: float = 4e-4) -> Objective:
    """LUSPO (TRL): GSPO whose rows weigh by their length, so that long answers are not held back.

    Evidence: code (TRL).
    """
    step = chain(clips.asymmetric(low, high), averages.sequence_mean_token_sum())
    return Objective(advantages.group_normalize(), step, surrogates.gspo)


def two_sided(delta: float = 4.0) -> Objective:
    """Two-sided clip (INTELLECT-2; TRL's delta): a huge ratio of a bad token no longer dominates the batch.

    Evidence: code (TRL).
    """
    return grpo_base(per_token=surrogates.delta_clip(delta))


def off_policy_sequences(threshold: float = 0.05) -> Objective:
    """Off-policy sequence masking (TRL): bad answers that the policy has left behind lose their gradient.

    Evidence: code (TRL).
    """
    return grpo_base(weights.off_policy_sequences(threshold))


def w_reinforce(positive: float = 0.1, negative: float = 1.0) -> Objective:
    """W-REINFORCE (lblaoke/entrocraft): wrong answers push fully, right ones pull little. positive=0 is NSR, negative=0 RAFT.

    Evidence: code; rewards of 0 and 1 become -1 and 1.
    """
    first = chain(advantages.raw(baseline=0.5, scale=2.0), advantages.signed_scale(positive, negative))
    return Objective(first, averages.token_mean(), surrogates.reinforce)
