"""Tokenizers behind one small protocol: text to ids and back, for character-level models here and Hugging
Face ones in hf_tokenizer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple


class Tokenizer(NamedTuple):
    """encode never adds marks of its own; decode leaves pad, begin and end marks out and never raises on ids
    that a model can sample.

    chat: wraps a user's message for the model (the chat template with the generation prompt), or None for
        models without one.
    stop_ids: ids that end a completion; `eos_id` is the one that training data ends with.
    bos_id: the mark that a plain prompt begins with, or None for models that know none.
    special: the marks that decode leaves out, text -> id.
    """

    encode: Callable[[str], list[int]]
    decode: Callable[[Sequence[int]], str]
    vocab_size: int
    pad_id: int
    eos_id: int
    bos_id: int | None = None
    stop_ids: tuple[int, ...] = ()
    chat: Callable[[str], str] | None = None
    special: Mapping[str, int] = MappingProxyType({})


def char_tokenizer(alphabet: str, *, eos: str = "$", bos: str | None = None) -> Tokenizer:
    """One id per character: 0 pads, 1 is the end mark, written `eos` in texts; then the begin mark if any,
    then the alphabet.

    `eos` and `bos` may stand in a text to encode; decoding leaves them out.
    """
    marks = [eos] if bos is None else [eos, bos]
    symbols = [*marks, *alphabet]
    if any(len(symbol) != 1 for symbol in symbols) or len(set(symbols)) != len(symbols):
        raise ValueError(
            f"char_tokenizer: marks {marks} and alphabet {alphabet!r} must be distinct single characters."
        )
    ids = {symbol: i for i, symbol in enumerate(symbols, start=1)}
    first_char = 1 + len(marks)

    def encode(text: str) -> list[int]:
        unknown = next((char for char in text if char not in ids), None)
        if unknown is not None:
            raise ValueError(
                f"char_tokenizer: {unknown!r} in {text[:60]!r} is not in the alphabet {alphabet!r}."
            )
        return [ids[char] for char in text]

    def decode(tokens: Sequence[int]) -> str:
        # a model's vocabulary may be padded to a round number: ids beyond the alphabet have no text
        return "".join(
            symbols[token - 1] for token in map(int, tokens) if first_char <= token <= len(symbols)
        )

    bos_id, special = None if bos is None else ids[bos], {mark: ids[mark] for mark in marks}
    return Tokenizer(
        encode, decode, len(symbols) + 1, pad_id=0, eos_id=1, bos_id=bos_id, stop_ids=(1,), special=special
    )
