"""KL penalty to the reference policy, from the sampled tokens.

    loss += beta k_it,    k: an estimator of entjax.kl against rollout.extra["ref_logp"] (default k3, verl's clamps)

The reference is the initial policy, or with Objective(reference_decay < 1) an exponential moving average of the policy (T1's
dynamic anchor). A controller as `coef` is fed with the mean estimate, so negative gains hold a KL: control.pi(target=.1,
kp=-.1, ki=-.01), or kl.adaptive(). Default beta = 1e-3 (GRPO recipes with KL).
"""

from __future__ import annotations

import jax.numpy as jnp

from entjax import kl as estimators
from entjax import masked, vocab
from entjax.control import Controller, Target
from entjax.transform import Transform, tunable


def kl(
    coef: Target | Controller = 1e-3,
    *,
    estimator: estimators.Estimator | None = None,
    corrected: bool = False,
) -> Transform:
    """beta times a sampled KL estimate; `corrected` multiplies it by the ratio (unbiased off-policy)."""
    estimator = estimator or estimators.k3()
    name = estimators.feature_name(estimator, "ref_logp", corrected)

    def measure(context):
        rollout = context.rollout
        d = masked.gap(rollout.extra["ref_logp"], context.stats["logp"], rollout.mask)
        return masked.mean(estimator.value(d), rollout.mask)

    def f(signal, context, *, coef):
        return signal.add_term(name, jnp.asarray(coef, signal.weight.dtype) * jnp.ones_like(signal.weight))

    controlled = isinstance(coef, Controller)
    return tunable(
        "kl",
        f,
        {"coef": coef},
        measure=measure,
        reads={"logp": vocab.logp} if isinstance(coef, Controller) else {},
        terms={name: estimators.feature(estimator, "ref_logp", corrected)},
        needs={"ref_logp"},
        writes={"coef"},
        owns={"kl"} if controlled else (),
    )
