"""DCPO, "Distribution-Centric Policy Optimization" (repository 597358816/DCPO): entropy steered by virtual tempered samples.

    T = 1.2 if H_meas <= H0 else 0.8,   rho_it = pi_old^T(token) / pi_old(token),   ok_i = 1[R_i > 0.05]
    beta = min(|H0 - H_meas|, 0.1) / mean(ok),   alpha = beta / (1 + beta),   A'_it = (1 - alpha) A_it + alpha ok_i rho_it

Too little entropy rewards correct tokens that a hotter policy would choose more often; too much, a cooler one. Defaults H0 0.5,
cap 0.1, threshold 0.05 (code; paper's best H0 0.25). H_meas is -mean(old_logp) of this batch ("nll", as the authors measure it)
or the behaviour policy's Shannon entropy. The released code takes it from the update before and gives NaN where no row is
correct; here alpha = 0 then.
"""

from __future__ import annotations

import jax.numpy as jnp

from entjax import features, masked
from entjax.control import Controller, Target
from entjax.transform import Transform, is_dynamic, tunable


def dcpo(
    *,
    target: Target | Controller = 0.5,
    hot: float = 1.2,
    cold: float = 0.8,
    cap: float = 0.1,
    threshold: float = 0.05,
    measure: str = "nll",
) -> Transform:
    """Mixes tempered importance ratios of correct rows into the advantage until the entropy reaches `target`."""
    if measure not in ("nll", "shannon"):
        raise ValueError(f"measure must be 'nll' or 'shannon', got {measure!r}.")
    if not 0 < cold <= hot:
        raise ValueError(f"dcpo needs 0 < cold <= hot, got cold={cold}, hot={hot}.")
    if not is_dynamic(target) and not target >= 0:
        raise ValueError(f"dcpo needs a target entropy >= 0, got {target}.")
    remembers = {features.named("tempered_logp", t): features.tempered_logp(t) for t in (hot, cold)}

    def f(signal, context, *, target):
        rollout, mask, advantage = context.rollout, signal.mask, signal.advantage
        measured = (
            -masked.mean(rollout.old_logp, mask) if measure == "nll" else masked.mean(rollout.entropy, mask)
        )
        measured = measured.astype(advantage.dtype)
        target = jnp.asarray(target, advantage.dtype)
        tempered = [masked.gap(rollout.extra[name], rollout.old_logp, mask) for name in remembers]
        log_rho = jnp.where(measured <= target, tempered[0], tempered[-1])
        rho = jnp.exp(jnp.minimum(log_rho, 80)).astype(advantage.dtype)  # finite in float32
        ok = rollout.reward > threshold
        accuracy = masked.mean(ok, rollout.group >= 0).astype(advantage.dtype)
        beta = jnp.minimum(jnp.abs(target - measured), cap) / jnp.where(accuracy > 0, accuracy, 1)
        alpha = jnp.where(accuracy > 0, beta / (1 + beta), 0)
        mixed = (1 - alpha) * advantage + alpha * jnp.where(ok[:, None], rho, 0)
        signal = signal.note(context, alpha=alpha, measured=measured)
        return signal.replace(advantage=masked.keep(mixed, mask))

    about = {"remembers": remembers, "writes": {"advantage"}, "owns": {"entropy"}}
    return tunable("dcpo", f, {"target": target}, **about)
