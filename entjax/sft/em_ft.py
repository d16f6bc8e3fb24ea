"""EM-FT: fine-tuning that only lowers the entropy, on the model's own samples (arXiv 2505.15134).

    loss = (1/B) sum_i sum_t H_it

The samples are constants, the gradient passes through the entropies alone. Sums over tokens favour short answers: watch the
length. No released code; written after the paper's text.
"""

from __future__ import annotations

from entjax import vocab
from entjax.sft.text_loss import TextLoss, sequence_mean


def em_ft() -> TextLoss:
    """The sum of token entropies, averaged over the sequences."""
    return TextLoss("em_ft", sequence_mean, lambda row: row.side["weight"] * vocab.entropy(row))
