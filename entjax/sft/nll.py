"""Maximum likelihood on given text.

loss = -(1/n) sum over the n valid tokens of log p(token)
"""

from __future__ import annotations

from entjax import vocab
from entjax.sft.text_loss import TextLoss, token_mean


def nll() -> TextLoss:
    """The mean negative log-likelihood of the valid tokens."""
    return TextLoss("nll", token_mean, lambda row: row.side["weight"] * -vocab.logp(row))
