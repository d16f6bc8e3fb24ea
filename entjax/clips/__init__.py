"""Clips: the range of the probability ratio, written into signal.clip_low and signal.clip_high."""
