"""Two ways to drop tokens: out of the averages ("selected": the mask shrinks) or only out of the sum ("all": weight 0)."""

from __future__ import annotations

from jaxtyping import Array

from entjax.types import Signal

DENOMINATORS = ("selected", "all")


def keep_tokens(signal: Signal, kept: Array, denominator: str) -> Signal:
    """The Signal in which only the `kept` tokens learn."""
    if denominator == "selected":
        return signal.replace(mask=signal.mask & kept)
    return signal.replace(weight=signal.weight * kept.astype(signal.weight.dtype))


def writes(denominator: str) -> set[str]:
    """The field that `keep_tokens` changes."""
    return {"mask"} if denominator == "selected" else {"weight"}


def check(name: str, denominator: str) -> None:
    """Refuse an unknown denominator."""
    if denominator not in DENOMINATORS:
        raise ValueError(f"{name}: denominator must be one of {DENOMINATORS}, got {denominator!r}.")
