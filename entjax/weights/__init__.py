"""Weights: how much of the surrogate a token keeps, written into signal.weight (or signal.mask, where the average changes)."""
