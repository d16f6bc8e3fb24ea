"""Entropy-SFT of Light-IF: learn the tokens that the model misses for no good reason (arXiv 2508.03178).

    Delta_t = CE_t - coef H_t;   the k = max(floor(ratio n), 1) largest of the batch learn:   loss = (1/k) sum CE over them

A token that is unlikely under a sure model counts, one of many that were possible does not. The selection has no gradient; it
looks at the whole batch, not at a microbatch. Defaults ratio 0.2, coef 1 (released code); the released recipe takes 0.8 and 0.8.
"""

from __future__ import annotations

import jax.numpy as jnp

from entjax import masked, vocab
from entjax.sft.text_loss import TextLoss


def entropy_sft(ratio: float = 0.2, coef: float = 1.0) -> TextLoss:
    """Negative log-likelihood of the share `ratio` of the tokens with the largest CE - coef H."""
    if not 0 < ratio <= 1:
        raise ValueError(f"entropy_sft() needs 0 < ratio <= 1, got {ratio}.")
    if not coef >= 0:
        raise ValueError(f"entropy_sft() needs coef >= 0, got {coef}.")

    def weigh(mask, stats):
        surplus = -stats["logp"] - coef * stats["entropy"]
        n = masked.count(mask, dtype=surplus.dtype)
        k = jnp.maximum(jnp.floor(ratio * n), 1)
        kept = masked.highest(surplus, mask, k.astype(jnp.int32))
        return {"weight": kept.astype(surplus.dtype) / k}

    return TextLoss(
        "entropy_sft",
        weigh,
        lambda row: row.side["weight"] * -vocab.logp(row),
        reads={"logp": vocab.logp, "entropy": vocab.entropy},
        hyper={"ratio": ratio, "coef": coef},
    )
