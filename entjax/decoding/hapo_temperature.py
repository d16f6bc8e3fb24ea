"""HAPO's adaptive temperature (arXiv 2509.16591): hotter where the policy is uncertain, cooler where it is sure.

    e = log max(H, 1e-6),  z = (e - c) / (s + 1e-6),  T = T0 (1 + tau clip(h, -1, 1)),  h = z up (z > 0), -z down (z <= 0)

H is the entropy of the logits before any temperature; c, s, up = 1 / max z and down = 1 / min z < 0 come from the previous
rollout (`advantages.hapo_statistics`). Default tau 0.05 (recipe). The released sampler forgets the minus: `sign_fix=False` makes
low-entropy tokens hotter, too.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float


def hapo_temperature(
    entropy: Float[Array, ...],
    *,
    pivot: Float[Array, ""],
    spread: Float[Array, ""],
    up: Float[Array, ""],
    down: Float[Array, ""],
    tau: float = 0.05,
    base: float = 1.0,
    sign_fix: bool = True,
) -> Float[Array, ...]:
    """The temperature of every position from its entropy and the statistics of the previous rollout."""
    z = (jnp.log(jnp.maximum(entropy, 1e-6)) - pivot) / (spread + 1e-6)
    h = jnp.where(z > 0, z * up, (-z if sign_fix else z) * down)
    return base * (1 + tau * jnp.clip(h, -1, 1))
