"""KL penalty in the reward: R_i <- R_i - beta (K_i - c),  K_i = sum_t k(ref_logp_t - old_logp_t).

k is an estimator of entjax.kl (default k1, as in TRL's RLOO). c = 0, or the mean of K over the batch with centred=True: T1's
on-policy KL normalisation (arXiv 2501.11651; that the mean runs over the whole batch is our reading). Default beta 2e-4 (T1);
a controller is fed with the mean estimate per token. T1 pairs it with an EMA reference: Objective(reference_decay=0.99).
"""

from __future__ import annotations

import jax.numpy as jnp

from entjax import kl as estimators
from entjax import masked
from entjax.control import Controller, Target
from entjax.transform import Transform, is_dynamic, tunable


def kl_reward(
    beta: Target | Controller = 2e-4,
    *,
    centred: bool = False,
    estimator: estimators.Estimator | None = None,
) -> Transform:
    """Subtract the sequence's KL to the reference policy from its reward; needs extra["ref_logp"]."""
    if not is_dynamic(beta) and beta < 0:
        raise ValueError(f"beta must be >= 0, got {beta}.")
    estimator = estimator or estimators.k1()

    def tokens(rollout):
        return estimator.value(masked.gap(rollout.extra["ref_logp"], rollout.old_logp, rollout.mask))

    def f(signal, context, *, beta, **_):
        rollout, rows = context.rollout, context.rollout.group >= 0
        kl = masked.total(tokens(rollout), rollout.mask, axis=1).astype(signal.reward.dtype)
        signal = signal.note(context, kl=masked.mean(kl, rows))
        if centred:
            kl = masked.keep(kl - masked.mean(kl, rows), rows)
        return signal.replace(reward=signal.reward - jnp.asarray(beta, kl.dtype) * kl)

    return tunable(
        "kl_reward",
        f,
        {"beta": beta, "centred": centred, "estimator": estimator.name},
        measure=lambda context: masked.mean(tokens(context.rollout), context.rollout.mask),
        needs={"ref_logp"},
        writes={"reward"},
        owns={"kl"} if isinstance(beta, Controller) else (),
    )
