"""SAFE: a KL penalty whose strength depends on entropy and reward ("SAFE: Stable Alignment Finetuning with Entropy-Aware
Predictive Control for RLHF"; code ryyzn9/SAFE).

    loss += lambda KL,    lambda = .1 max(s - threshold, 0) max(.5, floor / (H + .1))          see safe_controller

KL is controlled as the paper measures it, mean(log pi - log ref); the gradient passes through `estimator` (default k2: the
gradient of that mean itself averages to 0 on the policy's own samples). In the release KL is a plain number, so its penalty
.1 max(s - threshold, 0)^2 factor changes no gradient: `variant="released"` reports it and adds nothing. floor = 2 nats is
tuned to RLHF entropies: near H = .3 the factor is about 5.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array

from entjax import kl as estimators
from entjax import masked, vocab
from entjax.regularizers.safe_controller import safe_controller
from entjax.transform import Transform, stateful


def safe(
    *,
    base: float = 0.3,
    floor: float = 2.0,
    gains: tuple[float, float, float] = (0.3, 0.01, 0.05),
    estimator: estimators.Estimator | None = None,
    variant: str = "differentiable",
) -> Transform:
    """KL penalty that acts above a moving threshold, harder at low entropy."""
    if variant not in ("differentiable", "released"):
        raise ValueError(f"safe's variant must be 'differentiable' or 'released', got {variant!r}.")
    estimator = estimator or estimators.k2()
    name = f"safe_{estimators.feature_name(estimator)}"
    controller = safe_controller(base=base, floor=floor, gains=gains)

    def f(signal, state, context):
        rollout, mask = context.rollout, context.rollout.mask
        divergence = masked.mean(masked.gap(context.stats["logp"], rollout.extra["ref_logp"], mask), mask)
        reward = masked.mean(rollout.reward, rollout.group >= 0)
        entropy = masked.mean(context.stats["entropy"], mask)
        out, state = controller.update((divergence, entropy, reward), state)
        if variant == "differentiable":
            ones = jnp.ones_like(signal.weight)
            signal = signal.add_term(name, out.coef.astype(ones.dtype) * ones)
        noted = {"kl": divergence, "threshold": out.threshold, "penalty": out.penalty, "coef": out.coef}
        return signal.note(context, **noted), state

    differentiable = variant == "differentiable"
    return stateful(
        "safe",
        controller.init,
        f,
        {},
        reads={"logp": vocab.logp, "entropy": vocab.entropy},
        terms={name: estimators.feature(estimator)} if differentiable else {},
        needs={"ref_logp"},
        writes={"coef"} if differentiable else (),
        owns={"kl"},
    )


def soft_min(v1: Array, v2: Array, alpha: float = 0.3) -> Array:
    """SAFE's double critic: -alpha (logsumexp(-v1 / alpha, -v2 / alpha) - log 2), between min (alpha -> 0) and mean."""
    if not alpha > 0:
        raise ValueError(f"soft_min needs alpha > 0, got {alpha}.")
    both = jnp.stack([-v1 / alpha, -v2 / alpha])
    return -alpha * (jax.nn.logsumexp(both, axis=0) - jnp.log(jnp.asarray(2.0, both.dtype)))
