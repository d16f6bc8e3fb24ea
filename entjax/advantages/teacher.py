"""A teacher's opinion of every sampled token as a dense reward (on-policy distillation, arXiv 2605.16826).

    A_t = log pT(token) - log q_old(token)

With REINFORCE its expected gradient is that of the reverse KL per token, without a sum over the vocabulary. The teacher is the
reference policy of the run.
"""

from __future__ import annotations

from entjax import masked
from entjax.transform import Transform, stateless
from entjax.types import wide_dtype


def teacher_advantage() -> Transform:
    """How much likelier the teacher finds the token than the policy that sampled it."""

    def f(signal, context):
        rollout = context.rollout
        dtype = wide_dtype(signal.advantage.dtype)
        gap = rollout.extra["ref_logp"].astype(dtype) - rollout.old_logp.astype(dtype)
        return signal.replace(advantage=masked.keep(gap, rollout.mask))

    return stateless("teacher_advantage", f, needs={"ref_logp"}, writes={"advantage"}, owns={"baseline"})
