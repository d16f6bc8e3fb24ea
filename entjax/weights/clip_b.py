"""Clip_B: drop bad tokens that are unlikely for their context ("On the Entropy Dynamics in RFT of LLMs").

    S_t = p_t (log p_t + H_t) of the behaviour policy;   drop t if A_t < 0 and S_t - mean S < -mu std S

Mean and population standard deviation over all valid tokens of the rollout batch. To punish a token of strongly negative S
lowers the entropy. Tokens with A >= 0 are kept. Dropped tokens leave the averages (the released code edits
the response mask); denominator="all" only zeroes their weight.

Default mu 2.5 (released code and example). p is the trainer's log-prob, of which H is computed too; the released default mixes
the sampler's log-prob with the trainer's entropy: logp="sampler".
"""

from __future__ import annotations

import jax.numpy as jnp

from entjax import masked
from entjax.conflicts import steered
from entjax.control import Controller, Target
from entjax.entropy_change import discriminator_score
from entjax.transform import Transform, is_dynamic, tunable
from entjax.weights._keep import check, keep_tokens, writes


def clip_b(
    mu: Target | Controller = 2.5, *, logp: str = "trainer", denominator: str = "selected"
) -> Transform:
    """Batch-wide discriminator threshold on tokens of negative advantage."""
    if not is_dynamic(mu) and not mu >= 0:
        raise ValueError(f"clip_b needs mu >= 0, got {mu}.")
    if logp not in ("trainer", "sampler"):
        raise ValueError(f"clip_b: logp must be 'trainer' or 'sampler', got {logp!r}.")
    check("clip_b", denominator)

    def f(signal, context, *, mu):
        rollout, mask = context.rollout, signal.mask
        lp = masked.keep(rollout.old_logp if logp == "trainer" else rollout.as_sampled(), mask)
        score = discriminator_score(lp, masked.keep(rollout.entropy, mask).astype(lp.dtype))
        mean, spread = masked.mean(score, mask), masked.std(score, mask)
        far = masked.centred(score, mask) < -jnp.asarray(mu, score.dtype) * spread  # equal scores: 0 < 0
        dropped = mask & far & (signal.advantage < 0)
        return keep_tokens(signal, ~dropped, denominator).note(
            context, dropped=masked.mean(dropped, mask), mean=mean, std=spread
        )

    return tunable("clip_b", f, {"mu": mu}, writes=writes(denominator), sees={"advantage"}, owns=steered(mu))
