"""From grown rows to a Harvest: prompts in blocks that fit the sampler, texts, rewards, and the count of tokens.

sampling/tokens_computed    tokens behind the prompts that went through the model
sampling/computed_share     the same over the tokens behind the prompts that the rows hold: below 1 where prefixes are shared
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from flax import struct

from entjax.rollouts.harvest import Harvest, Tools, merge, take, widen
from entjax.sampler import Completions
from entjax.tasks import Example


@struct.dataclass
class Grown:
    """Rows of some prompts; `completions.group` is the number of the example. `counts` are added up over blocks."""

    completions: Completions
    computed: int
    extra: Mapping[str, np.ndarray] = struct.field(default_factory=dict)
    counts: Mapping[str, float] = struct.field(default_factory=dict)
    scored: list[str] | None = None  # what the verifier sees; None: all behind the prompt


Grow = Callable[[Tools, Sequence[Example], np.ndarray], Grown]


def grow_all(tools: Tools, examples: Sequence[Example], rows: int, grow: Grow, *, first: int = 0) -> Harvest:
    """`grow(tools, examples of a block, their numbers)` for all examples, `rows` rows each at most; numbers from `first` on."""
    size = tools.stepper.prompts_at_once(rows)
    starts = range(0, len(examples), size)
    parts = [
        grow(tools, examples[i : i + size], first + np.arange(i, min(i + size, len(examples))))
        for i in starts
    ]
    completions = merge([part.completions for part in parts])
    owners = [examples[number - first] for number in completions.group]
    texts = [tools.decode(completions.completion(row)) for row in range(len(owners))]
    scored = [text for part in parts for text in part.scored or [None] * len(part.completions.length)]
    shown = [text if other is None else other for text, other in zip(texts, scored, strict=True)]
    reward, report = tools.score(owners, shown)
    width = completions.tokens.shape[1]
    extra = {n: np.concatenate([widen(p.extra[n], width) for p in parts]) for n in parts[0].extra}
    return Harvest(completions, owners, texts, reward, report, _metrics(parts, completions), extra)


def _metrics(parts: Sequence[Grown], completions: Completions) -> dict[str, float]:
    computed = float(sum(part.computed for part in parts))
    held = float((completions.length - completions.prompt_length).sum())
    names = dict.fromkeys(name for part in parts for name in part.counts)
    counts = {f"sampling/{n}": float(sum(part.counts.get(n, 0) for part in parts)) for n in names}
    return {
        "sampling/tokens_computed": computed,
        "sampling/computed_share": computed / max(held, 1.0),
        **counts,
    }


def by_group(grown: Grown) -> Grown:
    """The rows of a prompt next to each other, in the order in which they were grown."""
    order = np.argsort(grown.completions.group, kind="stable")
    return grown.replace(
        completions=take(grown.completions, order),
        extra={name: x[order] for name, x in grown.extra.items()},
        scored=None if grown.scored is None else [grown.scored[row] for row in order],
    )
