"""ERPO, "Token-Level Entropy-Regulated Policy Optimization for Large Reasoning Models" (arXiv 2603.28204). EXPERIMENTAL.

    W_it = sigmoid(gamma zscore_group(H_it)),   s_it = log pi(token) - log pi_ref(token)
    s~_it = zscore of s among the group's tokens in the same of K windows of relative position (t + 1) / L_i
    Psi_it = W_it sign(A_i) s~_it,    A'_it = A_i (1 + lam clip(Psi_it sign(A_i), -1, 1))

Only the gate W and the shape of Psi are known from texts; progress signal, windows and synthesis are RECONSTRUCTED (no code
was released), and gamma 1, lam 0.5, K 10 are guesses. lam <= 1 keeps the outcome's sign. H and log pi: as sampled in a
`per_rollout` chain, current in a `per_step` chain. With several minibatches the latter sees a part of every group, and its
statistics are of that part.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from entjax import masked, vocab
from entjax.control import Controller, Target
from entjax.transform import Transform, is_dynamic, tunable


def erpo(
    *, gamma: Target | Controller = 1.0, lam: Target | Controller = 0.5, buckets: int = 10, eps: float = 1e-6
) -> Transform:
    """Entropy-gated progress against a reference policy, anchored to the outcome. Reconstructed."""
    if buckets < 1:
        raise ValueError(f"erpo needs at least one bucket of relative position, got buckets={buckets}.")
    if not is_dynamic(lam) and not 0 <= lam <= 1:
        raise ValueError(f"erpo needs 0 <= lam <= 1, or the outcome's sign could flip; got {lam}.")

    def f(signal, context, *, gamma, lam):
        mask, group, advantage = signal.mask, context.rollout.group, signal.advantage
        as_value = lambda x: jnp.asarray(x, advantage.dtype)
        entropy = context.stats["entropy"].astype(advantage.dtype)
        gate = jax.nn.sigmoid(as_value(gamma) * group_zscore(entropy, mask, group, eps))
        progress = masked.gap(context.stats["logp"], context.rollout.extra["ref_logp"], mask)
        window = position_window(mask, buckets)
        s = jnp.zeros_like(advantage)
        for i in range(buckets):
            s = s + group_zscore(progress.astype(s.dtype), mask & (window == i), group, eps)
        shaped = advantage * (1 + as_value(lam) * jnp.clip(gate * s, -1, 1))
        return signal.replace(advantage=masked.keep(shaped, mask))

    about = {
        "reads": {"entropy": vocab.entropy, "logp": vocab.logp},
        "needs": {"ref_logp"},
        "writes": {"advantage"},
    }
    return tunable("erpo", f, {"gamma": gamma, "lam": lam}, **about)


def group_zscore(x, mask, group, eps: float):
    """(x - mean) / (std + eps) over the group's valid tokens, 0 where there are fewer than two. Counted from the smallest:
    the mean of equal values does not round."""
    x = masked.keep(
        x + masked.group_max(-masked.minimum(x, mask, axis=1, empty=jnp.inf), group)[:, None], mask
    )
    n = masked.group_total(masked.count(mask, axis=1, dtype=x.dtype), group)
    mean = masked.group_total(masked.total(x, mask, axis=1), group) / jnp.maximum(n, 1)
    centred = masked.keep(x - mean[:, None], mask)
    std = jnp.sqrt(masked.group_total((centred**2).sum(1), group) / jnp.maximum(n, 1))
    return jnp.where((n > 1)[:, None], centred / (std + eps)[:, None], 0)


def position_window(mask, buckets: int):
    """Which of `buckets` equal windows of relative position (t + 1) / L a valid token lies in."""
    index = jnp.cumsum(mask.astype(jnp.int32), axis=1)
    length = jnp.maximum(index[:, -1:], 1)
    return jnp.clip(index * buckets // length, 0, buckets - 1)
