"""GAE: exponentially weighted temporal differences of a critic (arXiv 1506.02438).

    delta_t = r_t + gamma V_{t+1} - V_t,   A_t = delta_t + gamma lam A_{t+1},   return_t = A_t + V_t,   A <- whiten(A)

t + 1 is the next valid token, so observation holes are skipped. The critic's values come in rollout.extra["value"] [B, T].
Defaults gamma 1, lam 0.95 (usual for language models). `returns` gives what the critic is trained on. verl leaves the carried
value of A on padding; here it is 0.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from entjax import masked
from entjax.advantages.returns import backward, following, token_rewards, whiten
from entjax.transform import Transform, tunable


def gae(*, gamma: float = 1.0, lam: float = 0.95, kl: float = 0.0) -> Transform:
    """Generalised advantage estimation; needs extra["value"]."""
    if not (0 <= gamma <= 1 and 0 <= lam <= 1 and kl >= 0):
        raise ValueError(
            f"gae needs 0 <= gamma, lam <= 1 and kl >= 0, got gamma={gamma}, lam={lam}, kl={kl}."
        )

    def f(signal, context, **_):
        value = context.rollout.extra["value"]
        advantage = temporal_differences(token_rewards(signal, context, kl), value, signal.mask, gamma, lam)
        return signal.replace(advantage=whiten(advantage, signal.mask))

    needs = {"value"} | ({"ref_logp"} if kl else set())
    hyper = {"gamma": gamma, "lam": lam, "kl": kl}
    return tunable("gae", f, hyper, needs=needs, writes={"advantage"}, owns={"baseline"})


def temporal_differences(
    reward: Float[Array, "B T"],
    value: Float[Array, "B T"],
    mask: Bool[Array, "B T"],
    gamma: float,
    lam: float,
) -> Float[Array, "B T"]:
    """A before whitening; a masked position carries the value of the next valid token."""
    value = masked.keep(value, mask).astype(reward.dtype)
    hole = (~mask).astype(reward.dtype)
    next_value = following(backward(hole, value))
    delta = masked.keep(reward + gamma * next_value - value, mask)
    return backward(jnp.where(mask, gamma * lam, 1.0).astype(reward.dtype), delta)


def returns(
    reward: Array, value: Array, mask: Array, gamma: float = 1.0, lam: float = 0.95
) -> Float[Array, "B T"]:
    """A + V: the critic's targets."""
    return temporal_differences(reward, value, mask, gamma, lam) + value
