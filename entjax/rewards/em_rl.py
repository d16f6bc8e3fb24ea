"""EM-RL: the policy's own certainty as the only reward (arXiv 2505.15134).

    level="token": R_i = -sum_t H_it        level="sequence": R_i = sum_t logp_it            of the behaviour policy, constants

No labels. The paper trains with RLOO and a KL penalty of 1e-3. Entropy falls by construction; sums over tokens favour short
answers. The opposite of every exploration method: a control experiment.
"""

from __future__ import annotations

from entjax import masked
from entjax.transform import Transform, tunable


def em_rl(level: str = "token") -> Transform:
    """Replace the reward by the negative entropy of the answer."""
    if level not in ("token", "sequence"):
        raise ValueError(f"level must be 'token' or 'sequence', got {level!r}.")

    def f(signal, context, **_):
        rollout = context.rollout
        certainty = -rollout.entropy if level == "token" else rollout.old_logp
        reward = masked.total(certainty, rollout.mask, axis=1)
        return signal.replace(reward=reward.astype(signal.reward.dtype))

    return tunable("em_rl", f, {"level": level}, writes={"reward"}, owns={"reward"})
