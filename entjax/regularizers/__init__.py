"""Regularizers: differentiable terms of the loss, written as coefficients of features in signal.coef."""

from entjax.regularizers.entropy import entropy

__all__ = ["entropy"]
