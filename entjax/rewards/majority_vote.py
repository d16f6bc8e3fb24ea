"""TTRL: the group votes for its label (arXiv 2504.16084).

    y = most frequent readable answer,   R_j = 1[a_j = y]

Answers come as cluster ids in extra["cluster"] [B]; a negative id never votes, gets 0, and counts in the denominator of the
majority ratio. Ties go to the answer that came first (released code), or with ties="smallest" to the smallest id. No
readable answer: all 0. Training on the first n of N votes: `vote` on all N rows, then keep rows (defaults N 64, n 32).

The rollout's own reward is not used; where it holds the truth, the metrics tell how good the labels are.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from entjax import masked
from entjax.rewards.clusters import same_cluster
from entjax.transform import Transform, tunable


class Vote(NamedTuple):
    """What a group decided, at every row of it."""

    label: Int[Array, " B"]  # the winning cluster id, -2 where nobody voted
    ratio: Float[Array, " B"]  # votes of the label / rows of the group
    reward: Float[Array, " B"]  # 1 for rows that agree with the label


def vote(cluster: Int[Array, " B"], group: Int[Array, " B"], ties: str = "first") -> Vote:
    """Majority vote inside each group."""
    same = same_cluster(cluster, group)
    votes = same.sum(1).astype(jnp.int32)
    together = masked.same_group(group)
    most = jnp.max(jnp.where(together, votes[None, :], 0), axis=1)
    winners = (votes == most) & (votes > 0)
    order = cluster if ties == "smallest" else jnp.arange(cluster.shape[0], dtype=cluster.dtype)
    last = jnp.iinfo(order.dtype).max
    candidate = jnp.where(winners, order, last)
    first = jnp.min(jnp.where(together, candidate[None, :], last), axis=1)
    chosen = winners & (order == first)
    label = jnp.max(jnp.where(together & chosen[None, :], cluster[None, :], -2), axis=1)
    agrees = (cluster == label) & (label >= 0)
    n = masked.group_count(group)
    return Vote(label, most.astype(n.dtype) / jnp.maximum(n, 1), agrees.astype(n.dtype))


def majority_vote(*, ties: str = "first") -> Transform:
    """Replace the reward by agreement with the group's majority."""
    if ties not in ("first", "smallest"):
        raise ValueError(f"ties must be 'first' or 'smallest', got {ties!r}.")

    def f(signal, context, **_):
        rollout = context.rollout
        rows = rollout.group >= 0
        result = vote(rollout.extra["cluster"], rollout.group, ties)
        reward = result.reward.astype(signal.reward.dtype)
        truth = rollout.reward > 0.5
        agrees = result.reward > 0.5
        signal = signal.note(
            context,
            majority_ratio=masked.mean(result.ratio, rows),
            reward_accuracy=masked.mean(agrees == truth, rows),
            label_accuracy=masked.mean(masked.group_max(agrees & truth, rollout.group), rows),
        )
        return signal.replace(reward=reward)

    return tunable("majority_vote", f, {"ties": ties}, needs={"cluster"}, writes={"reward"}, owns={"reward"})
