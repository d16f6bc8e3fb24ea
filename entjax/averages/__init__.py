"""Averages: how token losses become one number, written as weights `scale` that sum over the batch."""

from entjax.averages.token_mean import token_mean

__all__ = ["token_mean"]
