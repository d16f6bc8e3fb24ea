"""DistIL (optional: only a project page): cross-entropy to a teacher that has seen feedback, with its effect on the future.

    loss = (1/B) sum_t CE_t + sg[sum over t' > t of CE_t'] log q(a_t),     CE_t = -sum_v pT log q, the teacher a constant

The text is the student's. Because what it writes decides what it will be asked later, the full gradient has a score-function
term with the later costs; without it (`future=False`) this is the DAgger-like objective. Baseline, truncation to top tokens and
refresh of the teacher are unknown. Nothing here is driven by entropy.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array

from entjax import masked, vocab
from entjax.sft.text_loss import TextLoss, sequence_mean
from entjax.vocab import Row, needs_reference_logits


@needs_reference_logits
def teacher_cross_entropy(row: Row) -> Array:
    """CE = -sum_v pT log q."""
    return -jnp.sum(jax.nn.softmax(row.side["ref_logits"], axis=-1) * row.log_probs, axis=-1)


def later(cost: Array, mask: Array) -> Array:
    """The sum of the costs behind every token of its row."""
    kept = masked.keep(cost, mask)
    return jnp.flip(jnp.cumsum(jnp.flip(kept, -1), axis=-1), -1) - kept


def distil(future: bool = True) -> TextLoss:
    """Sums over tokens, averaged over the sequences."""

    def weigh(mask, stats):
        weight = sequence_mean(mask, stats)
        return {**weight, "later": later(stats["cost"], mask)} if future else weight

    def per_token(row):
        loss = teacher_cross_entropy(row)
        if future:
            loss = loss + row.side["later"] * vocab.logp(row)
        return row.side["weight"] * loss

    reads = {"cost": teacher_cross_entropy} if future else {}
    return TextLoss("distil", weigh, per_token, reads=reads, teacher=True, hyper={"future": future})
