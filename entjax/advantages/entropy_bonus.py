"""RwE, "Reasoning with Exploration: An Entropy Perspective" (arXiv 2506.14758): a bonus for uncertain tokens.

    psi_it = min(alpha H_it, |A_it| / kappa),    A'_it = A_it + psi_it,    psi without gradient

H is the policy's token entropy: as sampled in a `per_rollout` chain, of the current policy in a `per_step` chain (the paper).
Defaults: alpha 0.4, kappa 2 (paper, GRPO; alpha 0.1 for PPO). kappa > 1 keeps the sign of A; SIREN's baseline uses kappa 1,
which can null a negative advantage, and adds in place so that the bonus piles up over epochs: not copied here.
"""

from __future__ import annotations

import jax.numpy as jnp

from entjax import masked, vocab
from entjax.control import Controller, Target
from entjax.transform import Transform, is_dynamic, tunable


def entropy_bonus(*, alpha: Target | Controller = 0.4, kappa: Target | Controller = 2.0) -> Transform:
    """Adds min(alpha * entropy, |A| / kappa) to the advantage; a zero advantage stays zero."""
    if not is_dynamic(alpha) and not alpha >= 0:
        raise ValueError(f"entropy_bonus needs alpha >= 0, got {alpha}.")
    if not is_dynamic(kappa) and not kappa > 0:
        raise ValueError(f"entropy_bonus needs kappa > 0, got {kappa}.")

    def f(signal, context, *, alpha, kappa):
        advantage = masked.keep(signal.advantage, signal.mask)
        entropy = masked.keep(context.stats["entropy"], signal.mask).astype(advantage.dtype)
        cap = jnp.abs(advantage) / jnp.asarray(kappa, advantage.dtype)
        psi = jnp.minimum(jnp.asarray(alpha, advantage.dtype) * entropy, cap)
        signal = signal.note(context, bonus=masked.mean(psi, signal.mask))
        return signal.replace(advantage=advantage + psi)

    hyper = {"alpha": alpha, "kappa": kappa}
    return tunable("entropy_bonus", f, hyper, reads={"entropy": vocab.entropy}, writes={"advantage"})
