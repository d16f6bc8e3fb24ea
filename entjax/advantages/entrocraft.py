"""Entrocraft: steer entropy into a band by refusing the samples that would push it the wrong way (arXiv 2604.26326).

    sgn = 1[H > high(step)] - 1[H < low(step)],   keep token it  iff  sgn A_it >= 0            H: mean behaviour entropy

Positive advantages lower entropy, negative ones raise it. variant="paper" filters whatever advantage stands before it, so put
it last; with renormalize=True the averages run over what is kept (a batch of which nothing is kept has loss 0), otherwise
refused tokens stay in the denominator with advantage 0. variant="released" computes the advantage itself: GRPO's inside
the band, max(R, 0) above, min(R, 0) below it, of the raw reward, which must be +-1; its scale jumps between these modes.
Default band: linear 0.6 to 0.4 and 0.7 to 0.5 over `steps` (the 4B GRPO run).
"""

from __future__ import annotations

import jax.numpy as jnp

from entjax.advantages.group_normalize import group_normalize
from entjax.advantages.returns import on_tokens
from entjax.control import Controller, Target, linear
from entjax.transform import Transform, is_dynamic, measured_entropy, tunable


def entrocraft(
    low: Target | Controller | None = None,
    high: Target | Controller | None = None,
    *,
    steps: int = 1000,
    renormalize: bool = True,
    variant: str = "paper",
) -> Transform:
    """Sign filter on advantages under an entropy schedule; `low` and `high` may be numbers or functions of the step."""
    low = linear(0.6, 0.4, steps) if low is None else low
    high = linear(0.7, 0.5, steps) if high is None else high
    if not is_dynamic(low) and not is_dynamic(high) and not low <= high:
        raise ValueError(f"The band needs low <= high, got low={low}, high={high}.")
    if variant not in ("paper", "released"):
        raise ValueError(f"variant must be 'paper' or 'released', got {variant!r}.")

    def direction(context, low, high):
        h = measured_entropy(context)
        above = (h > jnp.asarray(high, h.dtype)).astype(h.dtype)
        return above - (h < jnp.asarray(low, h.dtype)).astype(h.dtype)

    def paper(signal, context, *, low, high, **_):
        sign = direction(context, low, high)
        keep = sign.astype(signal.advantage.dtype) * signal.advantage >= 0
        signal = signal.note(context, direction=sign)
        if renormalize:
            signal = signal.replace(mask=signal.mask & keep)
        return signal.replace(advantage=jnp.where(keep, signal.advantage, 0))

    def released(signal, context, *, low, high, **_):
        sign = direction(context, low, high)
        inside = group_normalize().update(signal, (), context)[0].advantage
        raw = on_tokens(signal.reward, signal.mask)
        outside = jnp.where(sign > 0, jnp.maximum(raw, 0), jnp.minimum(raw, 0))
        signal = signal.note(context, direction=sign)
        return signal.replace(advantage=jnp.where(sign == 0, inside, outside))

    hyper = {"low": low, "high": high, "renormalize": renormalize, "variant": variant}
    if variant == "released":
        about = {"writes": {"advantage"}, "owns": {"entropy", "baseline"}}
    else:
        about = {"writes": {"advantage", "mask"} if renormalize else {"advantage"}, "owns": {"entropy"}}
    return tunable("entrocraft", released if variant == "released" else paper, hyper, **about)
