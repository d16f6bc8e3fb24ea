"""AEPO, arbitrary-entropy policy optimization: REINFORCE on successes of a flatter or sharper policy (code 597358816/AEPO).

    grad J = grad J_GRPO + alpha E_{a ~ pi^T}[grad log pi(a) R(a)],    T = 1.2 if H <= H_0 else 0.8

Part of the rollout is sampled at temperature T: rows with rollout.extra["tempered"]. Of those with group advantage > .05,
n = min(samples, number of them), halved when H > H_0, get advantage 1 and replace as many rows of the others; the rest of the
tempered rows leave the averages. old_logp is taken at temperature 1, so their ratio starts at 1: do not correct for the
sampler's temperature. T for the next rollout is knobs["tempered_temperature"] (start with `high`).

H is the mean of -log pi over the other rows ("nll", as released; there over the mixed batch) or their mean entropy ("shannon").
The first rows come and go, as released; choose="random" draws them. Defaults: H_0 .5, 60 samples,
T 1.2 / .8 (released). Goes after the group advantage, in the per_rollout chain.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from entjax import masked
from entjax.control import bang_bang
from entjax.transform import Transform, stateful

THRESHOLD = 0.05  # advantage of a tempered row that counts as a success (hard-coded in the release)


class AepoState(NamedTuple):
    entropy: Float[Array, ""]  # measured at the last update; 0 before the first


def aepo(
    target: float = 0.5,
    *,
    samples: int = 60,
    high: float = 1.2,
    low: float = 0.8,
    choose: str = "first",
    measure: str = "nll",
) -> Transform:
    """Mixes successful tempered rows into the batch and regulates their temperature."""
    if not 0 < low < high:
        raise ValueError(f"aepo needs 0 < low < high, got low={low}, high={high}.")
    if choose not in ("random", "first") or measure not in ("nll", "shannon"):
        raise ValueError(
            f"aepo's choose is 'random' or 'first' and its measure 'nll' or 'shannon', got {choose!r}, {measure!r}."
        )
    temperature = bang_bang(target, below=high, above=low)

    def f(signal, state, context):
        rollout = context.rollout
        real, tempered = rollout.group >= 0, rollout.extra["tempered"].astype(bool)
        # Subtracted first: a mean of the threshold itself would round.
        over = masked.mean(signal.advantage - THRESHOLD, signal.mask, axis=1)
        kept = real & tempered & (over > 0)
        others = real & ~tempered
        n = jnp.minimum(kept.sum(), samples)
        n = jnp.where(state.entropy > target, n // 2, n)
        order = jnp.arange(real.shape[0], dtype=jnp.float32)
        if choose == "random":
            order = jax.random.uniform(context.random_key(), real.shape)
        used = masked.lowest(order, kept, n)
        dropped = masked.lowest(order, others, n)
        rows = used | (others & ~dropped)
        mask = signal.mask & rows[:, None]
        one = jnp.where(used[:, None], 1, signal.advantage)
        entropy = -rollout.old_logp if measure == "nll" else rollout.entropy
        counted = rollout.mask & others[:, None]
        gap = masked.mean(masked.wide(entropy) - target, counted).astype(jnp.float32)
        H = jnp.where(jnp.any(counted), gap + target, 0)
        T, _ = temperature.update(H, temperature.init())
        signal = signal.replace(
            advantage=masked.keep(one, mask).astype(signal.advantage.dtype),
            mask=mask,
            knobs={**signal.knobs, "tempered_temperature": T},
        )
        return signal.note(context, used=n, entropy=H, temperature=T), AepoState(H)

    return stateful(
        "aepo",
        lambda: AepoState(jnp.zeros((), jnp.float32)),
        f,
        {},
        needs={"tempered"},
        writes={"advantage", "mask", "knobs"},
        knobs={"tempered_temperature"},
        owns={"entropy"},
    )
