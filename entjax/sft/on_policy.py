"""On-policy distillation as an Objective: the policy's own sampler and loss, with the reference policy as the teacher.

    on_policy(lambda):   loss = mean of lambda KL(q || pT) + (1 - lambda) KL(pT || q) over the tokens of the rollout, no reward
    on_policy_reward():  REINFORCE with the advantage log pT(token) - log q_old(token)

Put the teacher into the train state: `state.replace(reference=teacher_params)` (the same structure as the student; for another
structure see `sft.make_text_step`). Rollouts sampled with the teacher's weights turn the first into the two objectives on the
teacher's text. Both take part in a chain like any objective: add clips, weights or averages to `.per_step`.
"""

from __future__ import annotations

import jax.numpy as jnp

from entjax import masked
from entjax.loss import Objective
from entjax.regularizers import full_kl
from entjax.surrogates import reinforce
from entjax.transform import Transform, chain, rename, stateless
from entjax.types import wide_dtype


def on_policy(reverse: float = 1.0) -> Objective:
    """The exact KLs over the vocabulary; `reverse` is lambda."""
    if not 0 <= reverse <= 1:
        raise ValueError(f"on_policy() needs 0 <= reverse <= 1, got {reverse}.")
    kls = [("reverse", reverse), ("forward", 1 - reverse)]
    terms = [rename(f"{way}_kl", full_kl(share, direction=way)) for way, share in kls if share > 0]
    return Objective(per_step=chain(terms_only(), *terms), per_token=reinforce)


def on_policy_reward() -> Objective:
    """The sampled tokens alone: a dense reward instead of sums over the vocabulary."""
    return Objective(per_rollout=teacher_advantage(), per_token=reinforce)


def terms_only() -> Transform:
    """No policy gradient: what is left of the loss are the regularizers."""
    drop = lambda signal, context: signal.replace(weight=jnp.zeros_like(signal.weight))
    return stateless("terms_only", drop, writes={"weight"})


def teacher_advantage() -> Transform:
    """A_t = log pT - log q_old of the sampled token."""

    def f(signal, context):
        rollout = context.rollout
        dtype = wide_dtype(signal.advantage.dtype)
        gap = rollout.extra["ref_logp"].astype(dtype) - rollout.old_logp.astype(dtype)
        return signal.replace(advantage=masked.keep(gap, rollout.mask))

    return stateless("teacher_advantage", f, needs={"ref_logp"}, writes={"advantage"}, owns={"baseline"})
