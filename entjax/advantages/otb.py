"""OTB, optimal token baseline: a group baseline per position, weighted by the gradient energy spent so far (verl).

    w_t = 1 - 2 pi_t + sum_v pi(v)^2,   W_t = sum_{s <= t} w_s,   B_t = sum_i G_it W_it / sum_i W_it,   A_it = G_it - B_t

pi is the behaviour policy, G the reward-to-go, i runs over the rows of the group that have a token at position t.
`importance=True` multiplies w by (pi_trainer / pi_sampler)^2. A group of one has B = 0.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from entjax import masked, vocab
from entjax.advantages.returns import is_alone, reward_to_go, token_rewards
from entjax.transform import Transform, tunable


def otb(*, kl: float = 0.0, importance: bool = False) -> Transform:
    """Optimal token baseline; remembers sum_v pi^2 of the behaviour policy."""
    if kl < 0:
        raise ValueError(f"kl must be >= 0, got {kl}.")

    def f(signal, context, **_):
        rollout, mask = context.rollout, signal.mask
        returns = reward_to_go(token_rewards(signal, context, kl), mask)
        logp = masked.keep(rollout.old_logp, mask)
        energy = 1 - 2 * jnp.exp(logp) + masked.wide(rollout.extra["prob_sq"])
        if importance:
            gap = masked.gap(rollout.old_logp, rollout.as_sampled(), mask)
            energy = energy * jnp.exp(2 * jnp.clip(gap, -20, 20))
        weight = masked.keep(jnp.cumsum(masked.keep(energy, mask), axis=1), mask).astype(returns.dtype)
        same = masked.same_group(rollout.group).astype(returns.dtype)
        over_group = lambda x: jnp.einsum("ij,jt->it", same, x, precision=jax.lax.Precision.HIGHEST)
        baseline = over_group(returns * weight) / (over_group(weight) + 1e-8)
        baseline = jnp.where(is_alone(rollout.group)[:, None], 0, baseline)
        return signal.replace(advantage=masked.keep(returns - baseline, mask))

    return tunable(
        "otb",
        f,
        {"kl": kl, "importance": importance},
        remembers={"prob_sq": vocab.prob_sq},
        needs={"ref_logp"} if kl else (),
        writes={"advantage"},
        owns={"baseline"},
    )
