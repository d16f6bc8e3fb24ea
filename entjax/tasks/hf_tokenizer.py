"""A Hugging Face tokenizer folder behind the protocol of `chars.Tokenizer`, chat template included; never
touches the network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from entjax.tasks.chars import Tokenizer


def hf_tokenizer(
    folder: str | Path, *, system: str | None = None, options: Mapping[str, Any] | None = None
) -> Tokenizer:
    """Open the tokenizer of a local model folder. `system` is put before every user message of the chat
    template, which may read `options` as well, e.g. {"enable_thinking": False}.

    Code that comes with a folder is never run, whatever its config asks for.
    """
    from entjax.models.tokenizer import (
        end_ids,
        load_tokenizer,
    )  # here: workers import this package without JAX

    if not Path(folder).is_dir():
        raise FileNotFoundError(
            f"There is no folder {folder}, and entjax fetches no model by itself: `hf download ORGANISATION/MODEL --local-dir "
            f"{folder}` gets one from a hub, and the head of a shipped config names its own."
        )
    inner = load_tokenizer(folder)
    return wrap(inner, system=system, options=options, name=str(folder), ends=end_ids(folder))


def wrap(inner: Any, *, system: str | None = None, options: Mapping[str, Any] | None = None, name: str = "the tokenizer",
         ends: Sequence[int] = ()) -> Tokenizer:  # fmt: skip
    """The protocol around a transformers tokenizer that is already loaded; `ends` are ids that end a text beside its own."""
    from entjax.models.tokenizer import PLACEHOLDERS

    if inner.eos_token_id is None:
        raise ValueError(f"{name} has no end-of-sequence token: set eos_token in its tokenizer_config.json.")
    eos = int(inner.eos_token_id)
    arguments = {"tokenize": False, "add_generation_prompt": True, **(options or {})}
    unread = [option for option in options or () if option not in str(inner.chat_template)]
    if inner.chat_template and unread:
        raise ValueError(
            f"The chat template of {name} does not read {', '.join(unread)}: leave it out of chat_options."
        )
    pad = eos if inner.pad_token_id is None else int(inner.pad_token_id)

    added = {token.content: i for i, token in inner.added_tokens_decoder.items() if token.special}
    unknown = {i: token for token, i in added.items() if token in PLACEHOLDERS}

    def encode(text: str) -> list[int]:
        found = list(inner.encode(text, add_special_tokens=False))
        for i in unknown.keys() & set(found):
            raise ValueError(f"A text holds {unknown[i]}, for which {name} has no embedding: {text!r:.80}")
        return found

    def decode(tokens: Sequence[int]) -> str:
        known = [token for token in map(int, tokens) if 0 <= token < len(inner)]
        return inner.decode(known, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def chat(message: str) -> str:
        turns = [{"role": "user", "content": message}]
        turns = turns if system is None else [{"role": "system", "content": system}, *turns]
        return inner.apply_chat_template(turns, **arguments)

    return Tokenizer(
        encode,
        decode,
        vocab_size=len(inner) - len(unknown),
        pad_id=pad,
        eos_id=eos,
        bos_id=inner.bos_token_id if inner("").input_ids[:1] == [inner.bos_token_id] else None,
        stop_ids=tuple(dict.fromkeys((eos, *ends))),
        special=dict(zip(inner.all_special_tokens, inner.all_special_ids, strict=True)) | added,
        chat=chat if inner.chat_template else None,
    )
