"""What a rollout strategy is, what it may use, what it returns, and how that becomes a Rollout.

    collect(tools, examples, step, knobs, memory) -> (Harvest, memory)

A strategy is host code: it decides which prompts and prefixes the sampler continues. `Tools` is all that it may use; what it
wants to remember until the next step is a dictionary of arrays that goes in and comes out, and into every checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from entjax.rollouts.stepper import Stepper
from entjax.sampler import Completions
from entjax.tasks import Example, Report
from entjax.types import Rollout

NOTHING: Mapping[str, Any] = MappingProxyType({})
Memory = Mapping[str, np.ndarray]  # numbers, truth values or texts; never objects


def same_text(example: Example, text: str) -> str | None:
    """The answer of a task that has no canonical form: the text itself."""
    del example
    return text.strip() or None


class Tools(NamedTuple):
    """What a strategy works with.

    generate(prompts as token ids, samples=, prompt_ids=, temperature=) -> Completions of the current policy
    encode(example) -> the prompt's token ids;  decode(ids) -> text;  score(examples, texts) -> (rewards, Report)
    draw(n) -> n more examples of the stream, for strategies that throw some away
    stepper: rows that can be forked, taken back and continued;  canonical(example, text) -> answer, for votes
    teacher: the same with the weights of the config's teacher, if it has one
    """

    generate: Callable[..., Completions]
    encode: Callable[[Example], list[int]]
    decode: Callable[[Sequence[int]], str]
    score: Callable[[Sequence[Example], Sequence[str]], tuple[np.ndarray, Report]]
    draw: Callable[[int], list[Example]]
    samples: int
    stepper: Stepper
    canonical: Callable[[Example, str], str | None] = same_text
    seed: tuple[int, ...] = (0,)
    teacher: Tools | None = None

    def random(self, *salt: int) -> np.random.Generator:
        """Random numbers of this step on the host; the same on every process and after every restart."""
        return np.random.default_rng([*self.seed, *salt])


class Harvest(NamedTuple):
    """N sequences with their rewards; the samples of a group need not lie together, `completions.group` tells."""

    completions: Completions
    examples: list[Example]  # one per sequence
    texts: list[str]
    reward: np.ndarray  # [N]
    report: Report
    metrics: Mapping[str, float] = {}
    extra: Mapping[str, np.ndarray] = {}  # per-sequence [N] or per-token [N, S] inputs of methods


class Strategy(NamedTuple):
    """A rule for what is sampled.

    rows(prompts, samples): rows of a batch at most, which is what the training step is compiled for; missing ones are filler.
    provides: names that it puts into rollout.extra. sample(tools, examples, first_id): plain samples in the strategy's world,
    for evaluation; None where no environment answers.
    """

    name: str
    collect: Callable[[Tools, Sequence[Example], int, Mapping[str, Any], Memory], tuple[Harvest, Memory]]
    rows: Callable[[int, int], int]
    start: Memory = NOTHING  # the memory before the first step
    provides: frozenset[str] = frozenset()
    hyper: Mapping[str, Any] = NOTHING
    sample: Callable[..., Harvest] | None = None
    remembers: str = ""  # what the memory holds, for the docs

    def __call__(
        self, tools: Tools, examples: Sequence[Example], step: int, knobs: Mapping[str, Any]
    ) -> Harvest:
        """One harvest that begins without memories."""
        return self.collect(tools, examples, step, knobs, self.start)[0]


def full_groups(prompts: int, samples: int) -> int:
    """Every prompt has its `samples` rows."""
    return prompts * samples


def stateless(
    name: str,
    f: Callable[[Tools, Sequence[Example], int, Mapping[str, Any]], Harvest],
    *,
    rows: Callable[[int, int], int] = full_groups,
    **about: Any,
) -> Strategy:
    """A strategy without memory from `f(tools, examples, step, knobs) -> Harvest`."""
    return Strategy(name, lambda *args: (f(*args[:-1]), args[-1]), rows, **about)


def as_strategy(value: Strategy | Callable) -> Strategy:
    """The strategy itself, or a plain function made one; it must return full groups."""
    return value if isinstance(value, Strategy) else stateless(getattr(value, "__name__", "strategy"), value)


def merge(parts: Sequence[Completions]) -> Completions:
    """Completions one after another, padded to the longest."""
    width = max(part.tokens.shape[1] for part in parts)
    join = lambda name: np.concatenate([widen(getattr(part, name), width) for part in parts])
    return Completions(**{name: join(name) for name in Completions.__dataclass_fields__})


def widen(x: np.ndarray, width: int) -> np.ndarray:
    """A per-token array padded to `width` tokens; others as they are."""
    return x if x.ndim < 2 else np.pad(x, ((0, 0), (0, width - x.shape[1]), *[(0, 0)] * (x.ndim - 2)))


def take(completions: Completions, rows: Sequence[int] | np.ndarray) -> Completions:
    """Some rows, in the given order."""
    rows = np.asarray(rows, np.int64)
    return Completions(
        **{name: getattr(completions, name)[rows] for name in Completions.__dataclass_fields__}
    )


def pick(harvest: Harvest, rows: Sequence[int] | np.ndarray) -> Harvest:
    """Some sequences of a harvest, in the given order; report and metrics stay."""
    rows = np.asarray(rows, np.int64)
    return harvest._replace(
        completions=take(harvest.completions, rows),
        examples=[harvest.examples[row] for row in rows],
        texts=[harvest.texts[row] for row in rows],
        reward=np.asarray(harvest.reward)[rows],
        extra={name: np.asarray(x)[rows] for name, x in harvest.extra.items()},
    )


def join(parts: Sequence[Harvest]) -> Harvest:
    """Harvests one after another; reports add up, extras are those of the first (all must have them), so are metrics."""
    completions = merge([part.completions for part in parts])
    width = completions.tokens.shape[1]
    extras = {
        name: np.concatenate([widen(np.asarray(p.extra[name]), width) for p in parts])
        for name in parts[0].extra
    }
    return parts[0]._replace(
        completions=completions,
        examples=[example for part in parts for example in part.examples],
        texts=[text for part in parts for text in part.texts],
        reward=np.concatenate([np.asarray(part.reward, np.float32) for part in parts]),
        report=total([part.report for part in parts]),
        extra=extras,
    )


def total(reports: Sequence[Report]) -> Report:
    """Counts added up; of the messages the first that says something."""
    columns = zip(*reports, strict=True)
    return Report(*(next(filter(None, c), "") if isinstance(c[0], str) else sum(c) for c in columns))


def regroup(harvest: Harvest, group: np.ndarray) -> Harvest:
    """The harvest with other group ids."""
    return harvest._replace(completions=harvest.completions.replace(group=np.asarray(group, np.int32)))


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
