"""On-policy distillation as an Objective: the policy's own sampler and loss, with the reference policy as the teacher.

    on_policy(lambda):   loss = mean of lambda KL(q || pT) + (1 - lambda) KL(pT || q) over the tokens of the rollout, no reward
    on_policy_reward():  REINFORCE with the advantage log pT(token) - log q_old(token)

The teacher is `objective.replace(teacher=module)`, in a config `teacher=FOLDER`. Rollouts sampled with the teacher's weights
(rollouts.taught) turn the first into the two objectives on the teacher's text. `average` says which tokens count.
"""

from __future__ import annotations

from entjax.advantages import teacher_advantage
from entjax.averages import token_mean
from entjax.loss import Objective
from entjax.regularizers import full_kl
from entjax.surrogates import reinforce
from entjax.transform import Transform, chain, rename
from entjax.weights import terms_only


def on_policy(reverse: float = 1.0, average: Transform | None = None) -> Objective:
    """The exact KLs over the vocabulary; `reverse` is lambda."""
    if not 0 <= reverse <= 1:
        raise ValueError(f"on_policy() needs 0 <= reverse <= 1, got {reverse}.")
    kls = [("reverse", reverse), ("forward", 1 - reverse)]
    terms = [rename(f"full_kl/{way}", full_kl(share, direction=way)) for way, share in kls if share > 0]
    return Objective(per_step=chain(terms_only(), *terms, average or token_mean()), per_token=reinforce)


def on_policy_reward() -> Objective:
    """The sampled tokens alone: a dense reward instead of sums over the vocabulary."""
    return Objective(per_rollout=teacher_advantage(), per_token=reinforce)
