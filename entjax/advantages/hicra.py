"""HICRA, "Emergent Hierarchical Reasoning in LLMs through Reinforcement Learning" (arXiv 2509.03646).

    A'_it = A_it + alpha |A_it| 1[t in S_i]        S_i: planning tokens; A > 0 -> (1 + alpha) A, A < 0 -> (1 - alpha) A

Planning tokens are those of "strategic grams" (let me check, wait, ...): pass `grams` from `analysis.strategic_grams.mine` to
find them by exact token-id match inside the step, or put a mask into `rollout.extra["planning"]` [B, T] (the host's text
matcher does). Default alpha 0.2 (paper). No training code was released; alpha <= 1 never flips a sign.
"""

from __future__ import annotations

import jax.numpy as jnp

from entjax import masked
from entjax.analysis.strategic_grams import Grams, detect
from entjax.control import Controller, Target
from entjax.transform import Transform, is_dynamic, tunable


def hicra(*, alpha: Target | Controller = 0.2, grams: Grams | None = None) -> Transform:
    """Amplifies success and softens failure on planning tokens."""
    if not is_dynamic(alpha) and not alpha >= 0:
        raise ValueError(f"hicra needs alpha >= 0, got {alpha}.")

    def f(signal, context, *, alpha):
        if grams is None:
            planning = signal.mask & context.rollout.extra["planning"].astype(bool)
        else:
            planning = detect(context.rollout.tokens, signal.mask, grams)
        advantage = masked.keep(signal.advantage, signal.mask)
        raised = advantage + jnp.asarray(alpha, advantage.dtype) * jnp.abs(advantage)
        signal = signal.note(context, fraction=masked.mean(planning, signal.mask))
        return signal.replace(advantage=jnp.where(planning, raised, advantage))

    needs = {"planning"} if grams is None else ()
    return tunable("hicra", f, {"alpha": alpha}, needs=needs, writes={"advantage"})
