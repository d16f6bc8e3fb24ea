"""EAR, the entropy-based advantage reshaping of ETTRL (arXiv 2508.11356): trust confident answers more.

    H_i = mean token entropy of row i,   Y_i = 1 + (mean_g H - H_i) / mean_g H = 2 - H_i / mean_g H,   A'_i = Y_i A_i   (Adv-Res)
    `variant="clip"`: A' = clip(A, -beta, beta)                                                                      (Adv-Clip)

The weights of a group average to 1. H is the behaviour policy's (assumed). Defaults: Adv-Res; beta 2. Y < 0 where
H_i > 2 mean flips the advantage (no clamp in the paper): `floor=0.0` forbids it. No code was released.
"""

from __future__ import annotations

import jax.numpy as jnp

from entjax import masked
from entjax.control import Controller, Target
from entjax.transform import Transform, is_dynamic, tunable


def ear(
    *, variant: str = "residual", beta: Target | Controller = 2.0, floor: float | None = None
) -> Transform:
    """Scales a row by its group's mean entropy against its own; or clips the advantage."""
    if variant not in ("residual", "clip"):
        raise ValueError(f"variant must be 'residual' or 'clip', got {variant!r}.")
    if not is_dynamic(beta) and not beta > 0:
        raise ValueError(f"ear needs beta > 0, got {beta}.")

    def clip(signal, context, *, beta):
        bound = jnp.asarray(beta, signal.advantage.dtype)
        return signal.replace(advantage=jnp.clip(signal.advantage, -bound, bound))

    def residual(signal, context):
        rollout, mask = context.rollout, signal.mask
        entropy = masked.mean(rollout.entropy, mask, axis=1).astype(signal.advantage.dtype)
        mean = masked.group_mean(entropy, jnp.where(jnp.any(mask, axis=1), rollout.group, -1))
        weight = jnp.where(mean > 0, 2 - entropy / jnp.where(mean > 0, mean, 1), 1)
        if floor is not None:
            weight = jnp.maximum(weight, floor)
        signal = signal.note(context, weight_min=jnp.min(weight), weight_max=jnp.max(weight))
        return signal.replace(advantage=masked.keep(signal.advantage * weight[:, None], mask))

    if variant == "clip":
        return tunable("ear", clip, {"beta": beta}, writes={"advantage"})
    return tunable("ear", residual, {}, writes={"advantage"})
