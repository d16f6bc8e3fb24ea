"""Decoding rules: transforms of the logits [B, V] that decide what is sampled; `entjax.chain` composes them."""

from entjax.decoding.context import DecodeContext
from entjax.decoding.ead import Switch
from entjax.decoding.edt import edt
from entjax.decoding.em_inf import em_inf
from entjax.decoding.em_temperature import em_temperature
from entjax.decoding.epsilon import epsilon
from entjax.decoding.eta import eta
from entjax.decoding.greedy import greedy
from entjax.decoding.hapo import hapo
from entjax.decoding.min_p import min_p
from entjax.decoding.stable_entropy import stable_entropy
from entjax.decoding.temperature import temperature
from entjax.decoding.top_h import top_h
from entjax.decoding.top_k import top_k
from entjax.decoding.top_n_sigma import top_n_sigma
from entjax.decoding.top_p import top_p
from entjax.decoding.typical import typical

__all__ = [
    "DecodeContext",
    "Switch",
    "edt",
    "em_inf",
    "em_temperature",
    "epsilon",
    "eta",
    "greedy",
    "hapo",
    "min_p",
    "stable_entropy",
    "temperature",
    "top_h",
    "top_k",
    "top_n_sigma",
    "top_p",
    "typical",
]
