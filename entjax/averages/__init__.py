"""Averages: how token losses become one number, written as weights `scale` that sum over the batch."""

from entjax.averages.constant_length import constant_length
from entjax.averages.first_tokens import first_tokens
from entjax.averages.sequence_mean import sequence_mean_token_mean, sequence_mean_token_sum
from entjax.averages.token_mean import token_mean

__all__ = [
    "constant_length",
    "first_tokens",
    "sequence_mean_token_mean",
    "sequence_mean_token_sum",
    "token_mean",
]
