"""PPO's clipped value loss, for objectives with a critic.

    L = 1/2 max((v - R)^2, (clip(v, v_old - eps, v_old + eps) - R)^2)

Default eps 0.2 (verl). The caller averages it.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def clipped_value_loss(
    value: Float[Array, "B T"],
    old_value: Float[Array, "B T"],
    returns: Float[Array, "B T"],
    clip: float = 0.2,
) -> tuple[Float[Array, "B T"], Bool[Array, "B T"]]:
    """(loss per token, True where the clipped branch is strictly larger)."""
    if not clip > 0:
        raise ValueError(f"clipped_value_loss needs clip > 0, got {clip}.")
    plain = (value - returns) ** 2
    held = (jnp.clip(value, old_value - clip, old_value + clip) - returns) ** 2
    return 0.5 * jnp.maximum(plain, held), held > plain
