"""The start of a search: rows at the ends of prompts, padded with filler to a number of rows that the sampler has compiled."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from entjax.sampler import DecodeState, Sampler, Sampling, sequence_keys
from entjax.sampler.generate import temperatures


def begin_rows(
    sampler: Sampler,
    params: Any,
    prompts: Sequence[Sequence[int]],
    how: Sampling,
    *,
    key: Any,
    samples: int = 1,
) -> DecodeState:
    """`samples` rows of every prompt next to each other, which would draw what `Sampler.generate` draws for them."""
    if how.stop_strings:
        raise ValueError(
            f"A search stops at token ids: leave out stop_strings={how.stop_strings!r}, or name their tokens in stop_ids."
        )
    total = len(prompts) * samples
    source = np.full(sampler.shapes.rows(total), -1, np.int32)
    source[:total] = np.repeat(np.arange(len(prompts)), samples)
    number = np.arange(len(source), dtype=np.int32) % samples
    keys = sequence_keys(key, np.int32(0), np.maximum(source, 0), number)
    filled = np.pad(temperatures(how, total), (0, len(source) - total), constant_values=1.0)
    how = dataclasses.replace(how, temperature=filled.tolist())
    return sampler.begin(sampler.prefill(params, prompts), how, source, keys)
