"""Clip_V: drop the tokens whose punishment would lower entropy most ("On the Entropy Dynamics in RFT of LLMs").

    D_t = N_t - S_t,  S_t = p_t (log p_t + H_t),  N_t = E_{v ~ p}[S_v]         behaviour policy, exact over the vocabulary
    drop t if A_t <= 0 and D_t > mu std D

D is the first-order entropy change per unit of positive advantage, so punishing a token of large D lowers entropy. The
threshold is not centred (Clip_B's is), std is over the population of valid tokens. If more than `max_fraction` of the tokens
were dropped, then of those with A < 0 only the max(1, int(max_fraction n)) largest D are; tokens with A = 0 stay dropped, as in
the released code (its README says that only A < 0 is tested). std < 1e-12 drops nothing.

Defaults: mu 8.5, max_fraction 1e-4 (released default arguments and example). Dropped tokens leave the averages.
"""

from __future__ import annotations

import jax.numpy as jnp

from entjax import masked, vocab
from entjax.conflicts import steered
from entjax.control import Controller, Target
from entjax.entropy_change import discriminator_score, expected_score
from entjax.transform import Transform, is_dynamic, tunable
from entjax.weights._keep import check, keep_tokens, writes

SUMS = {"prob_sq": vocab.prob_sq, "prob_sq_logp": vocab.prob_sq_logp}


def clip_v(
    mu: Target | Controller = 8.5, *, max_fraction: float = 1e-4, denominator: str = "selected"
) -> Transform:
    """Vocabulary-wide discriminator threshold on tokens without positive advantage."""
    if not is_dynamic(mu) and not mu >= 0:
        raise ValueError(f"clip_v needs mu >= 0, got {mu}.")
    if not 0 <= max_fraction <= 1:
        raise ValueError(f"clip_v needs 0 <= max_fraction <= 1, got {max_fraction}.")
    check("clip_v", denominator)

    def f(signal, context, *, mu):
        rollout, mask = context.rollout, signal.mask
        logp, entropy, *sums = (
            masked.keep(x, mask)
            for x in (rollout.old_logp, rollout.entropy, *(rollout.extra[name] for name in SUMS))
        )
        change = masked.keep(expected_score(entropy, *sums) - discriminator_score(logp, entropy), mask)
        spread = masked.std(change, mask)
        far = mask & (change > jnp.asarray(mu, change.dtype) * spread) & (spread >= 1e-12)
        dropped = far & (signal.advantage <= 0)
        n = masked.count(mask, dtype=change.dtype)
        negative = dropped & (signal.advantage < 0)
        capped = masked.highest(change, negative, jnp.maximum((max_fraction * n).astype(jnp.int32), 1))
        too_many = masked.count(dropped, dtype=n.dtype) > max_fraction * n
        dropped = jnp.where(too_many, (dropped & ~negative) | capped, dropped)
        return keep_tokens(signal, ~dropped, denominator).note(
            context, dropped=masked.mean(dropped, mask), std=spread
        )

    return tunable(
        "clip_v",
        f,
        {"mu": mu},
        remembers=SUMS,
        writes=writes(denominator),
        sees={"advantage"},
        owns=steered(mu),
    )
