"""Policy-specific hardness weighting of Confucius3-Math (technical report, section 6.2).

    A_i = (R_i - mu_g) (slope mu_g + bias),   mu_g = mean_g R,   R in {-1, +1}

Defaults slope -0.256, bias 1.256: a prompt that nobody solves weighs 1.512, one that everybody solves 1. No std; the report
sums over tokens without a length normalisation and filters uniform groups. Rewards that run from `low` to `high` (default 0
to 1) are mapped to [-1, 1] first. A group of one gets 0.
"""

from __future__ import annotations

from entjax import masked
from entjax.advantages.returns import on_tokens
from entjax.control import Controller, Target
from entjax.transform import Transform, tunable


def hardness(
    slope: Target | Controller = -0.256,
    bias: Target | Controller = 1.256,
    *,
    low: float = 0.0,
    high: float = 1.0,
) -> Transform:
    """Dr.GRPO's advantage, larger on harder prompts."""
    if not low < high:
        raise ValueError(f"The range of the reward needs low < high, got low={low}, high={high}.")

    def f(signal, context, *, slope, bias, **_):
        group = context.rollout.group
        reward = 2 * (signal.reward - low) / (high - low) - 1
        mean = masked.group_mean(reward, group)
        as_reward = lambda x: x if isinstance(x, float | int) else x.astype(reward.dtype)
        advantage = (reward - mean) * (as_reward(slope) * mean + as_reward(bias))
        return signal.replace(advantage=on_tokens(advantage, signal.mask))

    hyper = {"slope": slope, "bias": bias, "low": low, "high": high}
    return tunable("hardness", f, hyper, writes={"advantage"}, owns={"baseline"})
