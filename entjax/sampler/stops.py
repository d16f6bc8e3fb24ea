"""Stop strings: where in a growing list of tokens does its text first contain one of them?"""

from __future__ import annotations

from collections.abc import Callable, Sequence

Decode = Callable[[Sequence[int]], str]
MARGIN = 8  # characters of context beyond the longest stop string: some tokenizers change the first ones of a fragment


def first_stop(decode: Decode, tokens: Sequence[int], checked: int, stops: Sequence[str]) -> int | None:
    """The smallest n such that the text of tokens[:n] contains a stop string; None if there is none.

    tokens[:checked] are known to hold none, so only the text from a little before them is decoded.
    """
    start = _overlap(decode, tokens, checked, max(map(len, stops)) + MARGIN)
    holds = lambda n: _contains(decode(tokens[start:n]), stops)
    if len(tokens) <= checked or not holds(len(tokens)):
        return None
    return next(n for n in range(checked + 1, len(tokens) + 1) if holds(n))


def _overlap(decode: Decode, tokens: Sequence[int], end: int, characters: int) -> int:
    """A start such that tokens[start:end] decode to at least so many characters, or 0."""
    start, width = end, characters
    while start > 0:
        start = max(0, end - width)
        if len(decode(tokens[start:end])) >= characters:
            break
        width *= 2
    return start


def _contains(text: str, stops: Sequence[str]) -> bool:
    return any(stop in text for stop in stops)
