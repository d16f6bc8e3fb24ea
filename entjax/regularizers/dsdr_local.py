"""DSDR's local term: spread probability inside the correct, most diverse answers (arXiv 2602.19895).

    w_i = softmax over the correct rows of the group of tau d~_i,    d~ = clip(d, 0, sigma_d)
    loss -= lambda_l mean over groups of J,    J = -sum_i w_i (1 / L_i) sum_t r_it log pi_it,    r = exp(log pi - log pi_old)

J is an importance-sampled entropy: the gradient passes through r and log pi. d (embedding and formula diversity, [B]) is
rollout.extra["diversity"], shared with `rewards.dsdr`. No correct row: no term. Defaults: lambda_l = .001; tau and sigma_d are
not given in the paper's text (1 and 1: ours). `over="sum"` adds the groups up instead of averaging them. With several
minibatches a per-step chain sees a part of every group, and its statistics are of that part.
"""

from __future__ import annotations

import jax.numpy as jnp

from entjax import features, masked
from entjax.conflicts import steered
from entjax.control import Target
from entjax.transform import Transform, tunable


def dsdr_local(
    coef: Target = 1e-3, *, tau: float = 1.0, sigma: float = 1.0, correct: float = 1.0, over: str = "groups"
) -> Transform:
    """Importance-sampled entropy of the correct rows, weighted by their diversity; correct is reward >= `correct`."""
    if over not in ("groups", "sum"):
        raise ValueError(f"dsdr_local's over must be 'groups' or 'sum', got {over!r}.")

    def f(signal, context, *, coef):
        rollout, mask = context.rollout, signal.mask
        dtype = signal.weight.dtype
        diversity = jnp.clip(rollout.extra["diversity"].astype(dtype), 0, sigma)
        w = diversity_weights(tau * diversity, rollout.reward >= correct, rollout.group)
        length = jnp.maximum(masked.count(mask, axis=1, dtype=dtype), 1)
        n = _groups(rollout.group, dtype) if over == "groups" else jnp.ones((), dtype)
        scale = mask.astype(dtype) / (length * n)[:, None]
        strength = jnp.asarray(coef, dtype) * w.astype(dtype)
        signal = signal.add_term("weighted_logp", masked.keep(strength[:, None], mask), own_scale=scale)
        return signal.note(context, diversity=masked.mean(diversity, rollout.group >= 0))

    return tunable(
        "dsdr_local",
        f,
        {"coef": coef},
        terms={"weighted_logp": features.weighted_logp},
        needs={"diversity"},
        writes={"coef"},
        owns=steered(coef),
    )


def diversity_weights(score, correct, group):
    """Softmax of the scores over the correct rows of a group, 0 for the others."""
    peers = masked.same_group(group) & correct[None, :]
    top = masked.maximum(jnp.broadcast_to(score[None, :], peers.shape), peers, axis=1)
    e = jnp.where(correct & (group >= 0), jnp.exp(jnp.minimum(score - top, 0)), 0)
    total = masked.group_total(e, group)
    return e / jnp.where(total > 0, total, 1)


def _groups(group, dtype):
    """Number of groups."""
    n = masked.group_count(group, dtype)
    return jnp.maximum(jnp.sum(jnp.where(n > 0, 1 / jnp.maximum(n, 1), 0)), 1)
