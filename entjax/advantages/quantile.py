"""QAE: a quantile of the group's rewards as baseline (arXiv 2509.22611).

    A_i = (R_i - b_g) / (std_g R + eps),   b_g = inf{x : F_g(x) >= K}                std with n - 1

Binary rewards: on hard prompts (success rate <= 1 - K) only successes get an advantage, on easy ones only failures. Defaults
K = 0.4 (with clip-higher; 0.6 when the run collapses without it), eps 1e-6. `interpolation="linear"` is the released
torch.quantile, whose baseline falls between 0 and 1 when K (n - 1) is not an integer. A group of one keeps its reward. A K
outside (0, 1) is refused; the released code takes the mean then, which is `group_normalize()`.
"""

from __future__ import annotations

import jax.numpy as jnp

from entjax import masked
from entjax.advantages.returns import is_alone, on_tokens
from entjax.control import Controller, Target
from entjax.transform import Transform, is_dynamic, tunable


def quantile(
    level: Target | Controller = 0.4,
    *,
    eps: float = 1e-6,
    std: bool = True,
    interpolation: str = "right_continuous",
) -> Transform:
    """Quantile advantage estimation; `level` is K."""
    if not is_dynamic(level) and not 0 < level < 1:
        raise ValueError(
            f"The quantile level must lie in (0, 1), got {level}; for the mean use group_normalize()."
        )
    if interpolation not in ("right_continuous", "linear"):
        raise ValueError(f"interpolation must be 'right_continuous' or 'linear', got {interpolation!r}.")

    def baseline_of(reward, group, level):
        if interpolation == "linear":
            return masked.group_quantile(reward, group, level)
        n = masked.group_count(group)
        # 1e-4: K n that should be whole is not rounded up by its last bit
        position = jnp.ceil(jnp.asarray(level, n.dtype) * n - 1e-4).astype(jnp.int32) - 1
        position = jnp.clip(position, 0, jnp.maximum(n - 1, 0).astype(jnp.int32))
        chosen = masked.group_rank(reward, group) == position
        return masked.group_total(jnp.where(chosen, reward, 0), group)

    def f(signal, context, *, level, eps, **_):
        reward, group = signal.reward, context.rollout.group
        alone = is_alone(group)
        advantage = reward - jnp.where(alone, 0, baseline_of(reward, group, level))
        if std:
            spread = jnp.where(alone, 1, masked.group_std(reward, group, ddof=1)) + eps
            advantage = advantage / jnp.where(spread > 0, spread, 1)
        return signal.replace(advantage=on_tokens(advantage, signal.mask))

    hyper = {"level": level, "eps": eps, "std": std, "interpolation": interpolation}
    return tunable("quantile", f, hyper, writes={"advantage"}, owns={"baseline"})
