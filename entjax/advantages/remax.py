"""ReMax: the reward-to-go against the reward of a greedy answer to the same prompt (arXiv 2310.10505).

    A_t = sum_{s >= t} r_s - R_greedy

The greedy reward comes in rollout.extra["baseline"] [B]. kl > 0 puts -kl (old_logp - ref_logp) on every token's reward.
"""

from __future__ import annotations

from entjax import masked
from entjax.advantages.returns import reward_to_go, token_rewards
from entjax.transform import Transform, tunable


def remax(*, kl: float = 0.0) -> Transform:
    """ReMax; needs extra["baseline"], the greedy answers' rewards."""
    if kl < 0:
        raise ValueError(f"kl must be >= 0, got {kl}.")

    def f(signal, context, **_):
        returns = reward_to_go(token_rewards(signal, context, kl), signal.mask)
        baseline = context.rollout.extra["baseline"].astype(returns.dtype)
        return signal.replace(advantage=masked.keep(returns - baseline[:, None], signal.mask))

    needs = {"baseline"} | ({"ref_logp"} if kl else set())
    return tunable("remax", f, {"kl": kl}, needs=needs, writes={"advantage"}, owns={"baseline"})
