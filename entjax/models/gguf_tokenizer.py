"""The byte-level BPE tokenizer inside a GGUF file as tokenizer.json, tokenizer_config.json and chat_template.jinja."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from entjax.models.files import CheckpointError

CONTROL, USER_DEFINED = 3, 4  # kinds of tokens in tokenizer.ggml.token_type
SPLITS_DIGITS = {"smollm": True, "gpt-2": False, "default": False}  # by tokenizer.ggml.pre


def write_tokenizer(fields: Mapping[str, Any], folder: Path) -> None:
    """The tokenizer that the metadata `fields` describe, so that transformers opens `folder`."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    kind, before = fields.get("tokenizer.ggml.model"), fields.get("tokenizer.ggml.pre", "default")
    if kind != "gpt2" or before not in SPLITS_DIGITS:
        raise CheckpointError(
            f"The file holds a tokenizer {kind!r} that cuts text as {before!r}; entjax converts byte-level BPE (gpt2) that cuts "
            f"as one of {', '.join(SPLITS_DIGITS)}. Copy the tokenizer files of the original model."
        )
    tokens = fields["tokenizer.ggml.tokens"]
    merges = [tuple(pair.split(" ", 1)) for pair in fields["tokenizer.ggml.merges"]]
    inner = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    pieces: list[Any] = [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]
    if SPLITS_DIGITS[before]:
        pieces.insert(0, pre_tokenizers.Digits(individual_digits=True))
    inner.pre_tokenizer = pre_tokenizers.Sequence(pieces)
    inner.decoder = decoders.ByteLevel()
    kinds = fields.get("tokenizer.ggml.token_type") or [1] * len(tokens)
    for token, number in zip(tokens, kinds, strict=True):
        if number == CONTROL:
            inner.add_special_tokens([AddedToken(token, special=True, normalized=False)])
        elif number == USER_DEFINED:
            inner.add_tokens([AddedToken(token, normalized=False)])
    inner.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": fields["llama.context_length"],
        "clean_up_tokenization_spaces": False,
    }
    for name, field in {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}.items():
        number = fields.get(f"tokenizer.ggml.{field}_token_id")
        if number is not None:
            config[f"{name}_token"] = tokens[number]
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    template = fields.get("tokenizer.chat_template")
    if template:
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
