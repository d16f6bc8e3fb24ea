"""PEAR: a correct answer costs the entropy of its thinking beyond that of its answer (arXiv 2510.08026).

    P = max(0, mean_{t<k} H - alpha mean_{t>k} H),   r = min(1, s - P) for correct rows          k: index of </think>

H is the behaviour policy's entropy. The index of the tag comes in extra["think_end"] [B]; one outside the completion means
no tag: all tokens think. An empty phase has mean 0. Wrong rows keep the reward that stands before (their format score).
Default alpha 1. The paper has no lower bound, so with mean entropies above 1 nat a correct answer can end below a wrong one:
`floor=0.0` prevents that.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from entjax import masked
from entjax.control import Controller, Target
from entjax.transform import Transform, tunable


def phase_means(
    entropy: Float[Array, "B T"], mask: Bool[Array, "B T"], think_end: Int[Array, " B"]
) -> tuple[Float[Array, " B"], Float[Array, " B"]]:
    """Mean entropy before and after the tag; the tag itself belongs to neither."""
    length = mask.shape[1]
    index = jnp.arange(length, dtype=think_end.dtype)[None, :]
    missing = think_end < jnp.argmax(mask, axis=1)  # it lies before the completion
    end = jnp.where(missing, length, think_end)[:, None]
    mean = lambda phase: masked.mean(entropy, mask & phase, axis=1)
    return mean(index < end), mean(index > end)


def pear(alpha: Target | Controller = 1.0, *, correct: float = 1.0, floor: float | None = None) -> Transform:
    """Phase entropy aware reward; a row is correct when the verifier's reward is at least `correct`."""

    def f(signal, context, *, alpha, **_):
        rollout = context.rollout
        think, answer = phase_means(rollout.entropy, rollout.mask, rollout.extra["think_end"])
        penalty = jnp.maximum(think - jnp.asarray(alpha, think.dtype) * answer, 0)
        penalty = penalty.astype(signal.reward.dtype)
        reward = jnp.minimum(signal.reward - penalty, 1)
        if floor is not None:
            reward = jnp.maximum(reward, floor)
        right = rollout.reward >= correct
        signal = signal.note(context, penalty=masked.mean(penalty, right & (rollout.group >= 0)))
        return signal.replace(reward=jnp.where(right, reward, signal.reward))

    hyper = {"alpha": alpha, "correct": correct, "floor": floor}
    return tunable("pear", f, hyper, needs={"think_end"}, writes={"reward"})
