"""Answers that mean the same: cluster ids [B] from answers (host), cluster shares and semantic entropy from ids (JAX).

Ids are compared inside a group only. A negative id is an answer that is missing or could not be read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from entjax import masked


def answer_clusters(
    answers: Sequence[Any],
    group: Sequence[int],
    equal: Callable[[int, int], bool] | None = None,
    *,
    takeover: bool = True,
) -> np.ndarray:
    """Ids [B], numbered inside each group by first appearance; None becomes -1.

    Without `equal` two answers belong together when they are ==. With it, `equal(i, j)` compares row j with row i, the first
    member of a cluster. Where `equal` is not transitive a later representative takes a row over, as in EMPO's code in TRL; with
    takeover=False a row stays with the first, as in its code in verl.
    """
    ids = np.full(len(answers), -1, np.int32)
    for g in dict.fromkeys(np.asarray(group).tolist()):
        rows = [i for i, other in enumerate(group) if other == g and answers[i] is not None]
        if equal is None:
            first = {answer: k for k, answer in enumerate(dict.fromkeys(answers[i] for i in rows))}
            ids[rows] = [first[answers[i]] for i in rows]
            continue
        count = 0
        for at, i in enumerate(rows):
            if ids[i] >= 0:
                continue
            ids[i] = count
            for j in rows[at + 1 :]:
                if (takeover or ids[j] < 0) and equal(i, j):
                    ids[j] = count
            count += 1
    return ids


def same_cluster(cluster: Int[Array, " B"], group: Int[Array, " B"]) -> Bool[Array, "B B"]:
    """True where two rows of a group gave the same answer; a missing answer equals none, not even itself."""
    known = cluster >= 0
    return masked.same_group(group) & (cluster[:, None] == cluster[None, :]) & known[:, None] & known[None, :]


def own_cluster(cluster: Int[Array, " B"], group: Int[Array, " B"]) -> Bool[Array, "B B"]:
    """`same_cluster`, every missing answer being a cluster of its own."""
    index = jnp.arange(cluster.shape[0])
    return same_cluster(cluster, group) | ((index[:, None] == index[None, :]) & (group >= 0)[:, None])


def cluster_share(
    same: Bool[Array, "B B"], group: Int[Array, " B"], p: Float[Array, " B"] | None = None
) -> Float[Array, " B"]:
    """Probability of the row's cluster: members / group size, or the sum of `p` over its members."""
    if p is None:
        n = masked.group_count(group)
        return same.astype(n.dtype).sum(1) / jnp.maximum(n, 1)
    return jnp.where(same, p[None, :], 0).sum(1)


def semantic_entropy(
    share: Float[Array, " B"],
    same: Bool[Array, "B B"],
    group: Int[Array, " B"],
    p: Float[Array, " B"] | None = None,
    estimator: str = "shannon",
) -> Float[Array, " B"]:
    """Entropy in nats of the group's answer clusters: -sum_k p_k log p_k, or -1/K sum_k log p_k for estimator "mc"."""
    log_share = jnp.log(jnp.where(share > 0, share, 1))
    if estimator == "mc":
        members = same.astype(share.dtype).sum(1)
        one_per_cluster = jnp.where(members > 0, 1 / jnp.maximum(members, 1), 0)
        clusters = masked.group_total(one_per_cluster, group)
        return -masked.group_total(one_per_cluster * log_share, group) / jnp.maximum(clusters, 1)
    if p is None:
        p = 1 / jnp.maximum(masked.group_count(group, share.dtype), 1)
    return -masked.group_total(p * log_share, group)
