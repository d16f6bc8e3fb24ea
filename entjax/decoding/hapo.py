"""HAPO's adaptive temperature as a decoding rule (arXiv 2509.16591): every token gets a temperature by its entropy.

    logits / (1 + tau clip(h, -1, 1)),   h from the model's entropy and the previous rollout's statistics

The policy's own temperature is T0; `advantages.hapo_statistics` leaves the statistics in the knobs of the rollout. Build the rule
from them before every rollout: rules made from other knobs run the same compiled loop. Without knobs (the first rollout) or
with NaN in them nothing changes. Default tau 0.05 (recipe); `sign_fix=False` is the released sampler, see `hapo_temperature`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from entjax.decoding.hapo_temperature import hapo_temperature
from entjax.transform import Transform


class Hapo(NamedTuple):
    pivot: Float[Array, ""]
    spread: Float[Array, ""]
    up: Float[Array, ""]
    down: Float[Array, ""]
    tau: Float[Array, ""]


class _Adapt(NamedTuple):
    sign_fix: bool

    def __call__(self, logits, state, context):
        factor = hapo_temperature(context.model_entropy, **state._asdict(), sign_fix=self.sign_fix)
        return logits / jnp.where(jnp.isfinite(factor), factor, 1)[:, None], state


def hapo(knobs: Mapping[str, Any] | None = None, *, tau: float = 0.05, sign_fix: bool = True) -> Transform:
    """Adapt the temperature by up to the share `tau`; `knobs` as a rollout strategy gets them."""
    if not 0 <= tau < 1:
        raise ValueError(f"hapo() needs 0 <= tau < 1, got {tau}.")
    given = {name: (knobs or {}).get(f"hapo_{name}", jnp.nan) for name in ("pivot", "spread", "up", "down")}

    def init(logits):
        return Hapo(**{name: jnp.asarray(x, logits.dtype) for name, x in {**given, "tau": tau}.items()})

    return Transform("hapo", init, _Adapt(sign_fix), hyper={"tau": tau, "sign_fix": sign_fix})
