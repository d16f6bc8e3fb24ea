"""A decoder that learns on two CPU cores: for the quickstart, the notebooks and the tests."""

from __future__ import annotations

from typing import Any

from entjax.models.config import DecoderConfig


def tiny(
    vocab: int,
    width: int = 64,
    layers: int = 3,
    heads: int = 4,
    kv_heads: int | None = None,
    context: int = 256,
    **changes: Any,
) -> DecoderConfig:
    """A small float32 decoder with unrolled layers and a tied head; `changes` replace any other field.

    The defaults give some 150,000 parameters: `Decoder(tiny(vocab=19), rngs=nnx.Rngs(0))`.
    """
    config = DecoderConfig(
        vocab=vocab,
        width=width,
        layers=layers,
        heads=heads,
        kv_heads=heads if kv_heads is None else kv_heads,
        head_dim=max(2, width // heads),
        mlp=-(-width * 8 // 3 // 16) * 16,  # a gated MLP with the parameters of a plain one of 4 * width
        tied=True,
        context=context,
    )
    return config.replace(**changes)
