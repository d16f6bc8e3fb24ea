"""EMPO: the share of the group that gave the same answer is the reward; semantic entropy falls, no labels (arXiv 2504.05812).

    R_i = n_c(i) / G

variant="trl" (default): an unreadable answer gets 0, and so does a group whose answers all differ (semantic entropy >= log G;
also a group of one). "verl": an unreadable answer is a cluster of its own and gets 1/G, no threshold. "vote": 1 for members of
the largest clusters, ties included, on verl's clusters. min_confidence > 0 zeroes a group whose largest share is below it
(.25 in the code, switched off there). "reasoning" (free-form answers): verl's clusters, -.5 for a missing answer, 0 for one
that copies the question (extra["copied"] [B], see text.copies) and for groups of several clusters whose largest share is
below .2. Answer clusters come in extra["cluster"] [B], negative where unreadable.
"""

from __future__ import annotations

import jax.numpy as jnp

from entjax import masked
from entjax.rewards.clusters import cluster_share, own_cluster, same_cluster, semantic_entropy
from entjax.transform import Transform, tunable

VARIANTS = ("trl", "verl", "vote", "reasoning")


def empo(variant: str = "trl", *, min_confidence: float = 0.0) -> Transform:
    """Replace the reward by the frequency of the answer in its group."""
    if variant not in VARIANTS:
        raise ValueError(f"variant must be one of {', '.join(VARIANTS)}, got {variant!r}.")
    if not 0 <= min_confidence <= 1:
        raise ValueError(f"min_confidence must lie in [0, 1], got {min_confidence}.")

    def f(signal, context, **_):
        rollout = context.rollout
        cluster, group = rollout.extra["cluster"], rollout.group
        unread = cluster < 0
        together = own_cluster(cluster, group)
        if variant == "trl":  # unreadable answers share one cluster
            blank = masked.same_group(group) & unread[:, None] & unread[None, :]
            together = same_cluster(cluster, group) | blank
        share = cluster_share(together, group)
        entropy = semantic_entropy(share, together, group)
        largest = masked.group_max(share, group)
        reward = share
        if variant == "trl":
            n = jnp.maximum(masked.group_count(group, share.dtype), 1)
            all_differ = entropy >= jnp.log(n) - 1e-5
            reward = jnp.where(unread | all_differ, 0, share)
        elif variant == "vote":
            reward = (share >= largest - 1e-6).astype(share.dtype) * (group >= 0).astype(share.dtype)
        elif variant == "reasoning":
            unclear = largest < 0.2 - 1e-6
            reward = jnp.where(unclear | rollout.extra["copied"].astype(bool), 0, share)
            reward = jnp.where(unread & (group >= 0), -0.5, reward)
        reward = jnp.where(largest < min_confidence - 1e-6, 0, reward)
        signal = signal.note(context, semantic_entropy=masked.mean(entropy, group >= 0))
        return signal.replace(reward=reward.astype(signal.reward.dtype))

    hyper = {"variant": variant, "min_confidence": min_confidence}
    needs = {"cluster", "copied"} if variant == "reasoning" else {"cluster"}
    return tunable("empo", f, hyper, needs=needs, writes={"reward"}, owns={"reward"})
