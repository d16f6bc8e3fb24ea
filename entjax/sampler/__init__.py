"""Sampling in JAX: prefill shared by the samples of a prompt, a jitted decode loop, and rows that can be forked and continued."""

from entjax.sampler.generate import generate
from entjax.sampler.keys import sequence_keys
from entjax.sampler.sampler import Sampler, make_sampler
from entjax.sampler.sampling import Sampling
from entjax.sampler.shapes import Shapes, multiple_of, power_of_two
from entjax.sampler.state import Completions, DecodeState, Prefix

__all__ = [
    "Completions",
    "DecodeState",
    "Prefix",
    "Sampler",
    "Sampling",
    "Shapes",
    "generate",
    "make_sampler",
    "multiple_of",
    "power_of_two",
    "sequence_keys",
]
