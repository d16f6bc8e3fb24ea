"""SEED-GRPO: prompts whose answers disagree get a smaller advantage (arXiv 2505.12346).

    A_i <- A_i f(alpha SE / log n_g)        f(x) = 1 - x ("linear"), exp(-x) ("exp"), 1 / (1 + x) ("reciprocal")
    SE = -sum_k p_k log p_k ("shannon"),    -1/K sum_k log p_k over the K observed clusters ("mc", the paper's estimator)
    p_k = share of the group's answers ("counts"), or of their likelihoods exp(mean_t logp) ("likelihood")

Put it after group_normalize(std=False). Answer clusters come in extra["cluster"] [B]; a negative id is an answer that could
not be read: a cluster of its own. Defaults alpha 0.02 (the paper's best: a change of 2% at most; small studies need about 1),
counts, shannon, linear; the paper does not print f. The third-party release is likelihood, shannon, reciprocal, alpha 0.0417.
"""

from __future__ import annotations

import jax.numpy as jnp

from entjax import masked
from entjax.control import Controller, Target
from entjax.rewards.clusters import cluster_share, own_cluster, semantic_entropy
from entjax.transform import Transform, is_dynamic, tunable

SHAPES = {"linear": lambda x: 1 - x, "exp": lambda x: jnp.exp(-x), "reciprocal": lambda x: 1 / (1 + x)}


def seed(
    alpha: Target | Controller = 0.02,
    *,
    probability: str = "counts",
    estimator: str = "shannon",
    shape: str = "linear",
) -> Transform:
    """Multiply the advantage by a decreasing function of the group's semantic entropy."""
    if not is_dynamic(alpha) and alpha < 0:
        raise ValueError(f"alpha must be >= 0, got {alpha}.")
    for name, given, known in (
        ("probability", probability, ("counts", "likelihood")),
        ("estimator", estimator, ("shannon", "mc")),
        ("shape", shape, tuple(SHAPES)),
    ):
        if given not in known:
            raise ValueError(f"{name} must be one of {known}, got {given!r}.")

    def f(signal, context, *, alpha, **_):
        rollout, advantage = context.rollout, signal.advantage
        clusters = own_cluster(rollout.extra["cluster"], rollout.group)
        if probability == "counts":
            p = None
        else:
            score = masked.mean(rollout.old_logp, rollout.mask, axis=1)
            score = jnp.where(rollout.mask.any(axis=1), score, -jnp.inf)  # no tokens, no likelihood
            relative = jnp.exp(score - jnp.maximum(masked.group_max(score, rollout.group), -1e30))
            total = masked.group_total(relative, rollout.group)
            p = relative / jnp.where(total > 0, total, 1)
        share = cluster_share(clusters, rollout.group, p)
        entropy = semantic_entropy(share, clusters, rollout.group, p, estimator)
        largest = jnp.log(jnp.maximum(masked.group_count(rollout.group, entropy.dtype), 1))
        relative = entropy / jnp.where(largest > 0, largest, 1)
        strength = alpha if isinstance(alpha, float | int) else alpha.astype(entropy.dtype)
        factor = jnp.where(largest > 0, SHAPES[shape](strength * relative), 1)
        signal = signal.note(context, entropy=masked.mean(entropy, rollout.group >= 0))
        return signal.replace(advantage=advantage * factor[:, None].astype(advantage.dtype))

    hyper = {"alpha": alpha, "probability": probability, "estimator": estimator, "shape": shape}
    return tunable("seed", f, hyper, needs={"cluster"}, writes={"advantage"})
