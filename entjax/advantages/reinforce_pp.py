"""REINFORCE++: discounted returns with a KL penalty per token, whitened over the batch (arXiv 2501.03262).

    G_t = r_t + gamma G_{t+1},   r_t = R 1[t last] - kl (old_logp_t - ref_logp_t),   A = whiten(G)
    baseline variant:            A = whiten(R_i - mean_g R)

whiten(x) = (x - mean) / sqrt(var + 1e-8) over all valid tokens, so long sequences weigh more. Defaults gamma 1, kl 0. As in
verl a return does not cross an observation hole of a multi-turn row; `holes="skip"` lets it. The baseline variant keeps the
reward of a group of one.
"""

from __future__ import annotations

import jax.numpy as jnp

from entjax import masked
from entjax.advantages.returns import check_holes, is_alone, on_tokens, reward_to_go, token_rewards, whiten
from entjax.transform import Transform, stateless, tunable


def reinforce_pp(*, gamma: float = 1.0, kl: float = 0.0, holes: str = "stop") -> Transform:
    """REINFORCE++; kl > 0 needs extra["ref_logp"]."""
    check_holes(holes)
    if not 0 <= gamma <= 1 or kl < 0:
        raise ValueError(f"reinforce_pp needs 0 <= gamma <= 1 and kl >= 0, got gamma={gamma}, kl={kl}.")

    def f(signal, context, **_):
        returns = reward_to_go(token_rewards(signal, context, kl), signal.mask, gamma, holes)
        return signal.replace(advantage=whiten(returns, signal.mask))

    hyper = {"gamma": gamma, "kl": kl, "holes": holes}
    needs = {"ref_logp"} if kl else ()
    return tunable("reinforce_pp", f, hyper, needs=needs, writes={"advantage"}, owns={"baseline"})


def reinforce_pp_baseline() -> Transform:
    """REINFORCE++-baseline: the group mean first, then whitening over the batch's tokens."""

    def f(signal, context):
        reward, group = signal.reward, context.rollout.group
        centred = reward - jnp.where(is_alone(group), 0, masked.group_mean(reward, group))
        return signal.replace(advantage=whiten(on_tokens(centred, signal.mask), signal.mask))

    return stateless("reinforce_pp_baseline", f, writes={"advantage"}, owns={"baseline"})
