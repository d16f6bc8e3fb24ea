"""Lp-Reg: keep sensible low-probability tokens alive ("Low-probability Tokens Sustain Exploration in RLVR"; code
CarlanLark/Lp-Reg-dev).

    proxy = pi_old with tokens below kappa max_v pi_old removed, renormalised
    S = tokens with A < 0, among the k = max(1, floor(rho #{A < 0})) lowest log pi_theta, and log pi_theta < log proxy
    on S:  loss = -A r + c k3(d = log proxy - log pi_theta),    k3 = exp(d) - d - 1, d in +-20, k3 <= 10

so the lower clip ends on S; use it after the clip rule (released: ratios 0..10, `clips.asymmetric(low=1, high=9)`).
Defaults: kappa .02, rho .01 (14B; .005 at 32B), c 1. The paper adds the full KL(proxy || pi_theta) without the condition
log pi < log proxy; the released code, and this, take its k3 estimate at the sampled token. The released code does nothing
when k = 1 (`min_selected=2`), filters before the temperature is applied, and offers `rule="fixed"` (keep p_v >= kappa),
`rule="minp_soft"` (removed tokens fall to the row's smallest logit) and `estimator="mse"` (d^2 / 2, not clamped).
"""

from __future__ import annotations

import jax.numpy as jnp

from entjax import features, kl, masked, vocab
from entjax.conflicts import steered
from entjax.control import Target
from entjax.transform import Transform, tunable


def lp_reg(
    coef: Target = 1.0,
    *,
    kappa: float = 0.02,
    rho: Target = 0.01,
    min_selected: int = 1,
    rule: str = "minp",
    estimator: str = "k3",
) -> Transform:
    """k3 towards the filtered behaviour policy on the least likely tokens of negative advantage."""
    estimators = {"k3": kl.k3(), "mse": kl.k2()}
    if estimator not in estimators:
        raise ValueError(f"lp_reg's estimator must be one of {sorted(estimators)}, got {estimator!r}.")
    proxy = features.named("min_p_logp", rule, float(kappa))
    term = kl.feature_name(estimators[estimator], proxy)

    def f(signal, context, *, coef, rho):
        logp, ceiling = masked.wide(context.stats["logp"]), masked.wide(context.rollout.extra[proxy])
        negative = signal.mask & (signal.advantage < 0)
        k = jnp.floor(masked.count(negative, dtype=logp.dtype) * jnp.asarray(rho, logp.dtype))
        k = jnp.maximum(k, 1).astype(jnp.int32)
        lowest = masked.lowest(logp, negative, k) & (k >= min_selected)
        selected = lowest & (logp < ceiling)
        strength = jnp.where(selected, jnp.asarray(coef, logp.dtype), jnp.zeros_like(logp))
        signal = signal.replace(clip_low=jnp.where(selected, 0, signal.clip_low))
        return signal.add_term(term, strength).note(context, selected=selected.sum())

    return tunable(
        "lp_reg",
        f,
        {"coef": coef, "rho": rho},
        reads={"logp": vocab.logp},
        remembers={proxy: features.min_p_logp(float(kappa), rule)},
        terms={term: kl.feature(estimators[estimator], proxy)},
        writes={"coef", "clip_low"},
        sees={"advantage"},
        owns=steered(coef, rho),
    )
