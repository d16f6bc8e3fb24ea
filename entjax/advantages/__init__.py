"""Advantages: how good a sequence or a token was, written into signal.advantage."""

from entjax.advantages.group_normalize import group_normalize

__all__ = ["group_normalize"]
