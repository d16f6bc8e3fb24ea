"""Analytic counts of arithmetic: what the model asks for, and what the hardware does for it.

One multiply-add is two operations. Model FLOPs are those of a forward and a backward pass (3 forwards) over the tokens with
causal attention, 2 forwards for frozen weights; hardware FLOPs add what is recomputed and the half of the attention that is
masked away after the fact.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from entjax.models.config import DecoderConfig


class Work(NamedTuple):
    """Operations of one program over all chips, and the tokens that it is for."""

    model: float
    hardware: float
    tokens: int


def matrices(c: DecoderConfig) -> int:
    """Weights of the layers that every token is multiplied with, adapters aside."""
    attention = c.width * c.head_dim * (2 * c.heads + 2 * c.kv_heads)
    return c.layers * (attention + 3 * c.width * c.mlp)


def adapters(c: DecoderConfig) -> int:
    """Weights of the adapters, if the decoder has some: rank times inputs and outputs of every matrix."""
    query, key = c.heads * c.head_dim, c.kv_heads * c.head_dim
    return c.layers * c.lora * (2 * (c.width + query) + 2 * (c.width + key) + 3 * (c.width + c.mlp))


def head(c: DecoderConfig) -> int:
    return c.width * c.vocab


def attention(c: DecoderConfig, keys: float) -> float:
    """Operations of one token that looks at `keys` others, over all layers: scores and mixing."""
    return 4.0 * c.layers * c.heads * c.head_dim * keys


def work_of(c: DecoderConfig, sizes: Any, program: str, *, reads: float = 0.0) -> Work:
    """The arithmetic of the update, score, prefill or (one token of every row) decode program; `reads` is the share of the
    rows that the update looks at once more, without gradient, before it decides."""
    if program == "reshard":
        return Work(0.0, 0.0, 0)
    weights = 2.0 * (matrices(c) + adapters(c))
    if program == "decode":
        tokens = sizes.at_once
        done = tokens * (weights + 2.0 * head(c) + attention(c, sizes.prompt + sizes.new))
        return Work(done, done, tokens)
    tokens = sizes.prompts * sizes.prompt if program == "prefill" else sizes.rows * sizes.length
    length = sizes.prompt if program == "prefill" else sizes.length
    causal, full = (weights + attention(c, keys) for keys in (length / 2, length))
    top = 0.0 if program == "prefill" else 2.0 * head(c)
    if program != "update":
        return Work(tokens * (causal + top), tokens * (full + top), tokens)
    again = {"none": 0.0, "dots": attention(c, length), "full": full}[c.remat]
    seen = reads * (full + top)
    frozen = 2.0 * matrices(c) + top if c.lora else 0.0  # its gradient, which nobody needs
    model, hardware = 3 * (causal + top) - frozen, 3 * (full + top) - frozen + again + seen
    return Work(tokens * model, tokens * hardware, tokens)
