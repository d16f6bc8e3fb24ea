"""What a rollout strategy returns, and how it becomes a Rollout.

    Strategy = (tools, examples, step, knobs) -> Harvest

A strategy is a host function: it decides which prompts and prefixes the sampler continues. `Tools` is all that it may use.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from entjax.sampler import Completions
from entjax.tasks import Example, Report
from entjax.types import Rollout


class Tools(NamedTuple):
    """What a strategy works with.

    generate(prompts as token ids, samples=, prompt_ids=, temperature=) -> Completions of the current policy
    encode(example) -> the prompt's token ids;  decode(ids) -> text;  score(examples, texts) -> (rewards, Report)
    draw(n) -> n more examples of the stream, for strategies that throw some away
    """

    generate: Callable[..., Completions]
    encode: Callable[[Example], list[int]]
    decode: Callable[[Sequence[int]], str]
    score: Callable[[Sequence[Example], Sequence[str]], tuple[np.ndarray, Report]]
    draw: Callable[[int], list[Example]]
    samples: int


class Harvest(NamedTuple):
    """N sequences with their rewards; the samples of a group need not lie together, `completions.group` tells."""

    completions: Completions
    examples: list[Example]  # one per sequence
    texts: list[str]
    reward: np.ndarray  # [N]
    report: Report
    metrics: Mapping[str, float] = {}
    extra: Mapping[str, np.ndarray] = {}  # per-sequence [N] or per-token [N, S] inputs of methods


Strategy = Callable[[Tools, Sequence[Example], int, Mapping[str, Any]], Harvest]


def merge(parts: Sequence[Completions]) -> Completions:
    """Completions one after another, padded to the longest."""
    width = max(part.tokens.shape[1] for part in parts)

    def join(name):
        arrays = [getattr(part, name) for part in parts]
        if arrays[0].ndim == 2:
            arrays = [np.pad(a, ((0, 0), (0, width - a.shape[1]))) for a in arrays]
        return np.concatenate(arrays)

    return Completions(**{name: join(name) for name in Completions.__dataclass_fields__})


def take(completions: Completions, rows: Sequence[int] | np.ndarray) -> Completions:
    """Some rows, in the given order."""
    rows = np.asarray(rows, np.int64)
    return Completions(
        **{name: getattr(completions, name)[rows] for name in Completions.__dataclass_fields__}
    )


def to_rollout(harvest: Harvest, *, rows: int, length: int, temperature: float) -> Rollout:
    """Arrays of `rows` rows and `length` tokens; missing rows become filler with group -1 and an empty mask."""
    c = harvest.completions
    n = len(c.length)
    if n > rows or int(c.length.max(initial=0)) > length:
        raise ValueError(
            f"{n} sequences of up to {int(c.length.max())} tokens do not fit into {rows} rows of {length}."
        )

    def fit(x: np.ndarray, fill: float = 0) -> np.ndarray:
        x = x[:, :length] if x.ndim >= 2 else x
        widths = (
            [(0, rows - n)]
            + ([(0, length - x.shape[1])] if x.ndim >= 2 else [])
            + [(0, 0)] * max(0, x.ndim - 2)
        )
        return np.pad(x, widths, constant_values=fill)

    logp = fit(c.logp.astype(np.float32))
    per_token = lambda name, x: jnp.asarray(fit(np.asarray(x)))
    return Rollout(
        tokens=jnp.asarray(fit(c.tokens)),
        mask=jnp.asarray(fit(c.mask)),
        logp=jnp.asarray(logp),
        entropy=jnp.asarray(fit(c.entropy.astype(np.float32))),
        old_logp=jnp.asarray(logp),
        reward=jnp.asarray(fit(np.asarray(harvest.reward, np.float32))),
        group=jnp.asarray(fit(c.group.astype(np.int32), -1)),
        extra={name: per_token(name, x) for name, x in harvest.extra.items()},
        temperature=jnp.asarray(temperature, jnp.float32),
    )
