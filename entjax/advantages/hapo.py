"""HAPO, "From Uniform to Heterogeneous: Tailoring Policy Optimization to Every Token's Nature" (arXiv 2509.16591), advantages.

    e = log max(H, 1e-8),  c = nearest q-quantile of e,  z = (e - c) / s,  s = RMS of e - c over valid tokens
    h = z / max z  (z > 0)        h = -z / min z  (z <= 0)                        in [-1, 1], about 1 - q of the tokens positive
    redistribution: inside (1 - eps_low/2, 1 + eps_high/2) tokens with h <= 0 get A (1 + beta h), outside those with h > 0 do

H is the current policy's entropy, the zone comes from the clip range in force (put `clips.hapo` before). Defaults q 0.8, beta 1
(the authors' recipe). The released code forgets the minus (min z < 0), so that its h is never negative and every token
counts as high-entropy: `sign_fix=False`. The group average of HAPO is `hapo_average`, its statistics go to the sampler
through `hapo_statistics`.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from entjax import masked, vocab
from entjax.control import Controller, Target
from entjax.loss import log_ratios
from entjax.surrogates import ratio
from entjax.transform import Transform, is_dynamic, tunable


class EntropyScale(NamedTuple):
    """What turns an entropy into h: pivot c, RMS s, 1 / max z and the negative 1 / min z."""

    pivot: Float[Array, ""]
    spread: Float[Array, ""]
    up: Float[Array, ""]
    down: Float[Array, ""]


def hapo_redistribution(
    *, beta: Target | Controller = 1.0, pivot: float = 0.8, sign_fix: bool = True
) -> Transform:
    """HAPO's differential advantage redistribution; beta h = -1 silences a token."""
    if not is_dynamic(beta) and not beta >= 0:
        raise ValueError(f"hapo_redistribution needs beta >= 0, got {beta}.")
    check_pivot(pivot)

    def f(signal, context, *, beta):
        h, _ = normalized_entropy(context.stats["entropy"], signal.mask, pivot, sign_fix)
        r = ratio(log_ratios(context.stats["logp"], context.rollout.old_logp, signal.mask))
        neutral = (r > 0.5 * (1 + signal.clip_low)) & (r < 0.5 * (1 + signal.clip_high))
        advantage = masked.keep(signal.advantage, signal.mask)
        shaped = advantage * (1 + jnp.asarray(beta, advantage.dtype) * h.astype(advantage.dtype))
        changes = jnp.where(h > 0, ~neutral, neutral)
        signal = signal.note(context, high=masked.mean(h > 0, signal.mask))
        return signal.replace(advantage=jnp.where(changes, shaped, advantage))

    reads = {"entropy": vocab.entropy, "logp": vocab.logp}
    return tunable("hapo_redistribution", f, {"beta": beta}, reads=reads, writes={"advantage"}, sees={"clip"})


def normalized_entropy(
    entropy: Float[Array, "B T"], mask: Bool[Array, "B T"], pivot: float = 0.8, sign_fix: bool = True
) -> tuple[Float[Array, "B T"], EntropyScale]:
    """(h, 0 outside the mask; the numbers that made it)."""
    e = jnp.log(jnp.maximum(jnp.where(mask, masked.wide(entropy), 1), 1e-8))
    c = masked.nearest_quantile(e, mask, pivot)
    d = masked.keep(e - c, mask)
    s = jnp.sqrt(jnp.maximum(masked.mean(d**2, mask), 1e-8))
    z = d / s
    top = jnp.maximum(masked.maximum(z, mask & (z > 0)), 1e-8)
    bottom = jnp.minimum(masked.minimum(z, mask & (z < 0)), -1e-8)
    sign = -1 if sign_fix else 1
    h = jnp.where(z > 0, z / top, sign * z / bottom)
    return h, EntropyScale(c, s, 1 / top, 1 / bottom)


def check_pivot(pivot: float) -> None:
    """Refuse a quantile outside (0, 1)."""
    if not 0 < pivot < 1:
        raise ValueError(
            f"pivot is the quantile of the entropy that counts as neutral, in (0, 1), got {pivot}."
        )
