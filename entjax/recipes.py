"""Recipes: a paper's method as one composition. Each is a function that returns an Objective.

A docstring starts with "Title (paper): what it does."; "Evidence:" tells what the definition rests on (the authors' code, their
text, or a reconstruction) and "Differs:" how the default departs from what was released. `entjax methods` reads all this.
"""

from __future__ import annotations

from entjax import (
    advantages,
    averages,
    clips,
    control,
    entropy_change,
    regularizers,
    rewards,
    sft,
    surrogates,
    weights,
)
from entjax.loss import Objective
from entjax.transform import Transform, chain


def _dapo(
    *per_step: Transform, before: tuple = (), after: tuple = (), c: float = 10.0, **options
) -> Objective:
    """DAPO's base: group-normalised reward, clip 0.2 to 0.28, dual clip c, token mean; rules before and after the advantage."""
    first = chain(*before, advantages.group_normalize(), *after)
    step = chain(clips.asymmetric(0.2, 0.28), *per_step, averages.token_mean())
    return Objective(first, step, surrogates.dual_clip(c), **options)


def _grpo(
    *per_step: Transform, before: tuple = (), after: tuple = (), baseline: Transform | None = None, **options
) -> Objective:
    """GRPO's base: PPO clip 0.2, token mean."""
    first = chain(*before, baseline or advantages.group_normalize(), *after)
    return Objective(first, chain(*per_step, averages.token_mean()), **options)


# Baselines -----------------------------------------------------------------------------------------------------------------


def grpo() -> Objective:
    """GRPO (arXiv 2402.03300): group-normalised reward, PPO clip, token mean.

    Evidence: code (verl).
    """
    return _grpo()


def dr_grpo(length: float = 1024) -> Objective:
    """Dr.GRPO (arXiv 2503.20783): no division by the group's spread, constant length instead of the row's own.

    Evidence: code (verl, TRL).
    """
    return Objective(advantages.group_normalize(std=False), averages.constant_length(length))


def dapo(max_length: int = 20480, buffer: int = 4096) -> Objective:
    """DAPO (arXiv 2503.14476): clip-higher, token mean, overlong shaping in tokens; with dynamic_sampling=N in the config.

    Evidence: code (verl).

    Differs: the length penalty has a floor at -1, as in the paper.
    """
    return _dapo(before=(rewards.overlong(max_length, buffer=min(buffer, max_length)),))


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
    return _grpo(weights.importance(threshold=threshold))


def grpo_kl(coef: float = 1e-3) -> Objective:
    """GRPO with KL loss (arXiv 2402.03300): k3 penalty towards the frozen initial policy.

    Evidence: code (verl, TRL).
    """
    return _grpo(regularizers.kl(coef))


# Entropy as a term -----------------------------------------------------------------------------------------------------------


def entropy_bonus(coef: float = 1e-3) -> Objective:
    """GRPO with entropy bonus (baseline): a constant coefficient on the policy's entropy.

    Evidence: code (verl).
    """
    return _grpo(regularizers.entropy(coef))


def entropy_pi(target: float = 0.5, kp: float = 0.1, ki: float = 0.01, high: float = 0.1) -> Objective:
    """Entropy bonus under PI control (this project): the coefficient holds the measured entropy at a target.

    Evidence: closed-loop tests, docs/controllers.md.
    """
    return _grpo(regularizers.entropy(control.pi(target=target, kp=kp, ki=ki, low=0.0, high=high)))


def skywork(target: float = 0.2, delta: float = 1e-4, high: float = 5e-3) -> Objective:
    """Skywork-OR1 (arXiv 2505.22312): the bonus' coefficient moves by a fixed step, off above the target.

    Evidence: code.
    """
    return _grpo(regularizers.entropy(control.skywork(target, delta=delta, high=high)))


def siren(coef: float = 5e-3, top_p: float = 0.8, quantile: float = 0.8) -> Objective:
    """SIREN (arXiv 2509.25133): entropy of the nucleus at peak tokens, pulled to its own initial value.

    Evidence: code.

    Differs: the nucleus includes the token that crosses top_p, as in the paper.
    """
    step = chain(regularizers.siren(coef, top_p=top_p, quantile=quantile), averages.token_mean())
    return Objective(advantages.group_normalize(std=False), step, surrogates.dual_clip(3.0))


def targeted_entropy(coef: float = 1e-3, target: float = 0.55) -> Objective:
    """Confucius3-Math TER (arXiv 2506.18330): the distance of the mean entropy from a target; hardness-weighted advantage.

    Evidence: text.
    """
    step = chain(regularizers.targeted_entropy(coef, target=target), averages.token_mean())
    return Objective(advantages.hardness(), step)


def kl_cov(ratio: float = 2e-4, coef: float = 1.0) -> Objective:
    """KL-Cov (arXiv 2505.22617): a KL penalty on the tokens with the highest covariance of advantage and log-probability.

    Evidence: code.
    """
    return _grpo(clips.unclipped(), regularizers.kl_cov(ratio, coef))


def lp_reg(coef: float = 1.0, kappa: float = 0.02, rho: float = 0.01) -> Objective:
    """Lp-Reg (arXiv 2510.03222): low-probability tokens with negative advantage are held at a min-p filtered proxy.

    Evidence: code.
    """
    return _grpo(clips.asymmetric(1.0, 9.0), regularizers.lp_reg(coef, kappa=kappa, rho=rho))


def aepo(target: float = 0.5, samples: int = 60) -> Objective:
    """AEPO, arbitrary entropy (arXiv 2510.08141): REINFORCE on successes sampled at a temperature chosen by the entropy.

    Evidence: code.

    Differs: which rows are exchanged is drawn at random.
    """
    return _grpo(after=(regularizers.aepo(target, samples=samples),))


def epo(coef: float = 1e-3) -> Objective:
    """EPO (arXiv 2509.22576): entropy bonus with a band around the entropy's own history.

    Evidence: code and text.

    Differs: the released penalty is a constant and has no gradient; here it is differentiated, as in the paper.
    """
    return _grpo(regularizers.epo(coef))


def tea(coef: float = 1e-3) -> Objective:
    """Light-IF's TEA (arXiv 2508.03178): entropy bonus on the tokens with high covariance.

    Evidence: code, of a branch that the release never runs.

    Differs: the token weights are detached.
    """
    return _grpo(regularizers.tea(coef))


def dsdr(lambda_d: float = 1e-3, coef: float = 1e-3) -> Objective:
    """DSDR (arXiv 2602.19895): a reward for answers unlike the group's, and an entropy term on those that are right.

    Evidence: text.
    """
    return _grpo(regularizers.dsdr_local(coef), before=(rewards.dsdr(lambda_d),))


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
    return _grpo(regularizers.safe())


# Tokens: weights, masks, clips -------------------------------------------------------------------------------------------------


def steer(minimum: float = 0.8, mode: str = "exp") -> Objective:
    """STEER (arXiv 2510.10150): tokens whose update would change the entropy most are damped.

    Evidence: code.

    Differs: the estimator is the paper's theorem; `steer_released` has the released code's.
    """
    return _dapo(weights.steer(minimum, mode=mode))


def steer_released(minimum: float = 0.8) -> Objective:
    """STEER as released (zz-haooo/STEER): the code's estimator, with a floor of 0.02 under the largest score.

    Evidence: code.
    """
    return _dapo(weights.steer(minimum, estimator=entropy_change.steer_code, floor=0.02))


def steer_exact(minimum: float = 0.8) -> Objective:
    """STEER with the exact estimator (this project): first-order entropy change of the whole softmax, rank-normalised.

    Evidence: correlation 1 with the true change in a tabular softmax.
    """
    return _dapo(
        weights.steer(minimum, estimator=entropy_change.exact_first_order, normaliser=entropy_change.rank)
    )


def entropy_budget(target: float = 0.2, kp: float = 2.0, ki: float = 0.05, maximum: float = 2.0) -> Objective:
    """Entropy budget (this project): the smallest change of token weights whose predicted entropy change holds a target.

    Evidence: closed-loop tests and the quickstart.
    """
    return _dapo(weights.entropy_budget(target, kp=kp, ki=ki, maximum=maximum))


def clip_cov(fraction: float = 2e-4, low: float = 1.0, high: float = 5.0) -> Objective:
    """Clip-Cov (arXiv 2505.22617): a few random tokens of high covariance lose their gradient.

    Evidence: code.
    """
    return _grpo(clips.asymmetric(1.0, 1.0), weights.clip_cov(fraction, low=low, high=high))


def forking_tokens(rho: float = 0.2) -> Objective:
    """80/20 (arXiv 2506.01939): gradient only at the tokens of highest entropy.

    Evidence: code.
    """
    return _dapo(weights.forking_tokens(rho))


def clip_b(mu: float = 2.5) -> Objective:
    """Clip_B (arXiv 2602.03392): drops negative tokens whose entropy discriminator lies far below the batch's.

    Evidence: code.
    """
    return _grpo(after=(weights.clip_b(mu),))


def clip_v(mu: float = 8.5) -> Objective:
    """Clip_V (arXiv 2602.03392): drops negative tokens that would raise the entropy most, against the vocabulary's mean.

    Evidence: code.
    """
    return _grpo(after=(weights.clip_v(mu),))


def attention_entropy(strength: float = 0.5, steps: int = 1000) -> Objective:
    """Anchors and explorers (Not All Tokens Learn Alike): weight moves to tokens with diffuse attention over the run.

    Evidence: abstract; the schedule is a reconstruction.
    """
    return _dapo(weights.attention_entropy(control.linear(-strength, strength, steps)))


def agentic_aepo(a: float = 0.2) -> Objective:
    """Agentic entropy-balanced PO (arXiv 2510.14545): advantage scaled by z(entropy), a clip that keeps the gradient.

    Evidence: code.
    """
    return _grpo(
        clips.asymmetric(0.2, 0.2), advantages.agentic_advantage(a=a), per_token=surrogates.preserve_high()
    )


def hapo(alpha: float = 1.0, beta: float = 1.0) -> Objective:
    """HAPO (arXiv 2509.16591): entropy-adaptive clip and advantage, token-level group average, adaptive temperature.

    Evidence: code.

    Differs: the sign of the low-entropy branch is as in the paper; the release has it reversed.
    """
    first = chain(advantages.hapo_average(), advantages.hapo_statistics())
    step = chain(clips.hapo(alpha=alpha), advantages.hapo_redistribution(beta=beta), averages.token_mean())
    return Objective(first, step, surrogates.dual_clip(3.0))


def echo(a: float = 0.1) -> Objective:
    """ECHO (user683/ECHO): majority-vote reward, advantage by entropy and confidence, confidence clip.

    Evidence: code; the released tree rollout cannot run.
    """
    step = chain(clips.echo(), advantages.echo_shaping(multiply=a), averages.token_mean())
    first = chain(rewards.majority_vote(), advantages.group_normalize())
    return Objective(first, step, surrogates.dual_clip(3.0))


# Advantages ----------------------------------------------------------------------------------------------------------------


def rwe(alpha: float = 0.4, kappa: float = 2.0) -> Objective:
    """Reasoning with exploration (arXiv 2506.14758): a bounded bonus of the token's entropy on its advantage.

    Evidence: independent code.
    """
    return _grpo(after=(advantages.entropy_bonus(alpha=alpha, kappa=kappa),))


def qae(level: float = 0.4) -> Objective:
    """QAE (arXiv 2509.22611): a quantile of the group's rewards as baseline, so that one sign learns per prompt.

    Evidence: code, as quoted by the authors.

    Differs: right-continuous quantile as in the paper; the release interpolates.
    """
    return _grpo(clips.asymmetric(0.2, 0.28), baseline=advantages.quantile(level))


def seed(alpha: float = 0.02) -> Objective:
    """SEED-GRPO (arXiv 2505.12346): prompts with high semantic entropy learn less.

    Evidence: text and independent code.
    """
    return _grpo(baseline=advantages.group_normalize(std=False), after=(advantages.seed(alpha),))


def canon(mu: float = 1.0) -> Objective:
    """CANON (arXiv 2509.23962): rewards compared between the low- and high-entropy halves of a group.

    Evidence: code.
    """
    return _grpo(clips.asymmetric(0.2, 0.28), baseline=advantages.canon(mu=mu))


def empg(k: float = 1.0, zeta: float = 0.1) -> Objective:
    """EMPG (arXiv 2509.09265): steps weigh by their confidence, with a bonus for a clear next step.

    Evidence: the authors' pseudo-code.
    """
    return _grpo(after=(advantages.empg(k=k, zeta=zeta),))


def hicra(alpha: float = 0.2) -> Objective:
    """HICRA (arXiv 2509.03646): planning tokens get more credit and less blame.

    Evidence: text and independent code.
    """
    return _grpo(baseline=advantages.group_normalize(std=False), after=(advantages.hicra(alpha=alpha),))


def erpo(gamma: float = 1.0, lam: float = 0.5) -> Objective:
    """ERPO (arXiv 2603.28204): entropy-gated token credit from the progress against the reference. Experimental.

    Evidence: abstract; a reconstruction.
    """
    return _grpo(advantages.erpo(gamma=gamma, lam=lam))


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
    return _grpo(after=(advantages.explore_perplexity(alpha=alpha),))


def explore_position(alpha: float = 0.1) -> Objective:
    """Position shaping (arXiv 2508.07534): late tokens get a bonus in the direction of their advantage.

    Evidence: code.
    """
    return _grpo(after=(advantages.explore_position(alpha=alpha),))


def dcpo(target: float = 0.5) -> Objective:
    """DCPO, distribution-centric (597358816/DCPO): mixes in the ratio to a flatter or sharper policy, chosen by the entropy.

    Evidence: code.
    """
    return _grpo(after=(advantages.dcpo(target=target),))


def divergence_weights(alpha: float = 5.0) -> Objective:
    """Sparse but critical (paper's divergence-weighted advantage): tokens weigh by how far they moved from the old policy.

    Evidence: text; scale and slope are ours.
    """
    return _dapo(advantages.divergence_weights(alpha=alpha))


def entropic(target: float = 0.1, kp: float = 1.0, ki: float = 0.01) -> Objective:
    """EntroPIC (arXiv 2511.15248): PI control of the weights of positive and negative tokens.

    Evidence: code.

    Differs: weights inside the PPO sum, as in the paper; `regularizers.entropic(form="released")` has the separate term.
    """
    return _grpo(regularizers.entropic(target, kp=kp, ki=ki))


def entrocraft(start: float = 0.6, end: float = 0.2, width: float = 0.1, steps: int = 1000) -> Objective:
    """Entrocraft (arXiv 2604.26326): rejects the advantages of one sign while the entropy is outside a scheduled band.

    Evidence: code and text.

    Differs: filters any estimator's advantage, as in the paper; the release swaps in the raw reward.
    """
    low, high = control.linear(start, end, steps), control.linear(start + width, end + width, steps)
    return _grpo(after=(advantages.entrocraft(low, high, steps=steps),))


# Rewards ---------------------------------------------------------------------------------------------------------------------


def pear(alpha: float = 1.0) -> Objective:
    """PEAR (arXiv 2510.08026): correct answers pay for entropy in the thinking phase beyond that of the answer.

    Evidence: text.
    """
    return _grpo(before=(rewards.pear(alpha),))


def em_rl(level: str = "token") -> Objective:
    """EM-RL (arXiv 2505.15134): minimises entropy without labels; the control arm of every exploration method.

    Evidence: text.
    """
    first = chain(rewards.em_rl(level), advantages.leave_one_out())
    return Objective(first, averages.sequence_mean_token_sum(), surrogates.reinforce)


def empo(variant: str = "trl") -> Objective:
    """EMPO (arXiv 2504.05812): rewards the answers that the group agrees on, without labels.

    Evidence: code.
    """
    return _grpo(before=(rewards.empo(variant),))


def ttrl() -> Objective:
    """TTRL (arXiv 2504.16084): the group's majority answer stands in for the label.

    Evidence: code.
    """
    return _grpo(before=(rewards.majority_vote(),))


def ettrl() -> Objective:
    """ETTRL's EAR (arXiv 2508.11356): TTRL, and confident responses of a group weigh more.

    Evidence: text.
    """
    return _grpo(before=(rewards.majority_vote(),), after=(advantages.ear(),))


def ares(triggers: tuple[int, ...] = (0,), coef: float = 0.01) -> Objective:
    """ARES (arXiv 2510.08457): pays exploration at trigger words by difficulty, with a KL controller per difficulty.

    Evidence: code, which differs from the paper.
    """
    return _grpo(before=(rewards.ares_reward(triggers), rewards.ares_kl(coef)))


def spear() -> Objective:
    """SPEAR (arXiv 2509.22601): tool-use bonus that decays, self-imitation of replayed successes, Clip-Cov.

    Evidence: code.
    """
    first = chain(
        rewards.tool_use(),
        advantages.group_normalize(std=False),
        advantages.replay_baseline(),
        advantages.replay_weight(),
    )
    step = chain(clips.asymmetric(0.2, 0.28), weights.clip_cov(), averages.token_mean())
    return Objective(first, step)


# Distillation: with `teacher=FOLDER` in the config ------------------------------------------------------------------------------


def distill(reverse: float = 1.0, floor: float | None = None, stage: int = 20) -> Objective:
    """Distillation (arXiv 2605.16826): KL to a teacher over whole distributions, from reverse (1) to forward (0), no reward.

    Which model writes the text is up to the strategy (rollouts.taught). With `floor`, training looks at 8, 16, 32, ... first
    tokens of an answer and looks further, at the end of a stage of so many updates, only while the entropy is above the floor.

    Evidence: text. Differs: the ladder of lengths starts at 8 tokens instead of 128.
    """
    if floor is None:
        return sft.on_policy(reverse)
    ladder = tuple(2**power for power in range(3, 17))
    return sft.on_policy(reverse, averages.first_tokens(sft.length_curriculum(floor, ladder, stage=stage)))


def opd() -> Objective:
    """On-policy distillation (arXiv 2605.16826): log-prob of the teacher minus that of the policy as a dense reward.

    Evidence: text.
    """
    return sft.on_policy_reward()
