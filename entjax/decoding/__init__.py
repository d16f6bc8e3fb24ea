"""Decoding rules: transforms of the logits [B, V] that decide what is sampled; `entjax.chain` composes them."""

from entjax.decoding.context import DecodeContext
from entjax.decoding.greedy import greedy
from entjax.decoding.min_p import min_p
from entjax.decoding.temperature import temperature
from entjax.decoding.top_k import top_k
from entjax.decoding.top_p import top_p

__all__ = ["DecodeContext", "greedy", "min_p", "temperature", "top_k", "top_p"]
