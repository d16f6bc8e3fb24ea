"""SPEAR's self-imitation buffer (arXiv 2509.22601): successes of the last steps come back as rows of a later batch.

    remember   rows whose reward is above their group's mean (and that called a tool, with calls=1), for `tolerate` steps
    ready      when more than `ready` * size of them have R > p50, the median of the means of the last `history` groups
    replay     a random min(size, largest power of two <= their number) of those; then the buffer is emptied

Replayed rows are marked extra["replayed"], bring extra["stored_advantage"] (reward minus the mean of the group in which they
were sampled; 0 on fresh rows), form groups of their own, and keep the log-probs of the policy that sampled them as old_logp;
advantages.replay_baseline gives them their advantage, replay_weight their share of the loss. Rows of a batch: those of
`inner` + size. Mask: as `inner` made it. Defaults: size 2048, ready 1.5, tolerate 10, history 10240 (the run has 32, 1.5, 5
and 32).

Differences: the release takes separate optimizer steps for them, and may replay a row in the step that sampled it; the history
drops single groups, not whole steps.
"""

from __future__ import annotations

import numpy as np

from entjax.rollouts.groups import groups
from entjax.rollouts.harvest import Harvest, Memory, Strategy, as_strategy, join, pick, regroup
from entjax.rollouts.memory import from_harvest, inside, to_harvest, under


def replay(
    inner: Strategy | None = None,
    *,
    size: int = 2048,
    ready: float = 1.5,
    tolerate: int = 10,
    history: int = 10240,
    calls: int = 0,
) -> Strategy:
    """`inner` (plain groups by default) with replayed successes."""
    if size < 1 or ready < 0 or tolerate < 1 or history < 1:
        raise ValueError(
            f"replay needs size, tolerate, history >= 1 and ready >= 0, got {size}, {tolerate}, {history}, {ready}."
        )
    inner = groups() if inner is None else as_strategy(inner)
    if calls and "tool_calls" not in inner.provides:
        raise ValueError(
            f"replay: calls={calls} counts tool calls, and '{inner.name}' has none: use an inner strategy with tools."
        )

    def collect(tools, examples, step, knobs, memory: Memory) -> tuple[Harvest, Memory]:
        fresh, within = inner.collect(tools, examples, step, knobs, inside(memory, "inner"))
        means = memory.get("means", np.zeros(0, np.float32))
        random = tools.random(step, 0x5EA)
        old, chosen, kept = _draw(memory, means, random, step)
        means = np.concatenate([means, _group_means(fresh)])[-history:]
        none = np.zeros(len(fresh.texts), np.float32)
        extra = {**fresh.extra, "replayed": none.astype(bool), "stored_advantage": none}
        harvest = _mix(fresh._replace(extra=extra), old, chosen)
        stored = {**fresh.extra, "stored_advantage": _lead(fresh)}
        new = pick(fresh._replace(extra=stored), _successes(fresh, calls))
        buffer = _remember(old, kept, memory.get("step"), new, step, tolerate)
        metrics = {
            **fresh.metrics,
            "replay/rows": float(len(chosen)),
            "replay/buffer": float(len(buffer.get("step", ()))),
        }
        return harvest._replace(metrics=metrics), {**under("inner", within), **buffer, "means": means}

    def _draw(memory, means, random, step):
        """(the buffer, rows to replay, rows to keep)."""
        if "step" not in memory:
            return None, np.zeros(0, np.int64), np.zeros(0, np.int64)
        old = to_harvest(inside(memory, "row"))
        rows = np.flatnonzero(memory["step"] >= step - tolerate)
        good = rows[old.reward[rows] > np.median(means)]
        if len(good) <= ready * size:
            return old, np.zeros(0, np.int64), rows
        count = min(size, 1 << (len(good).bit_length() - 1))
        return old, np.sort(random.choice(good, count, replace=False)), np.zeros(0, np.int64)

    hyper = {
        "inner": inner,
        "size": size,
        "ready": ready,
        "tolerate": tolerate,
        "history": history,
        "calls": calls,
    }
    provides = inner.provides | {"replayed", "stored_advantage"}
    return Strategy(
        "replay", collect, lambda prompts, samples: inner.rows(prompts, samples) + size, under("inner", inner.start),
        provides, hyper, inner.sample, "successes of the last steps, means of the last groups",
    )  # fmt: skip


def _group_means(harvest: Harvest) -> np.ndarray:
    group = harvest.completions.group
    return np.array([harvest.reward[group == g].mean() for g in np.unique(group)], np.float32)


def _lead(harvest: Harvest) -> np.ndarray:
    """Reward minus the mean of the group."""
    _, index = np.unique(harvest.completions.group, return_inverse=True)
    return (harvest.reward - _group_means(harvest)[index]).astype(np.float32)


def _successes(harvest: Harvest, calls: int) -> np.ndarray:
    """Rows above the mean of their group, with at least so many tool calls."""
    better = _lead(harvest) > 0
    if calls:
        better &= harvest.extra["tool_calls"] >= calls
    return np.flatnonzero(better)


def _mix(fresh: Harvest, old: Harvest | None, chosen: np.ndarray) -> Harvest:
    """The fresh rows, then the chosen ones in groups of their own."""
    if old is None or not len(chosen):
        return fresh
    again = pick(old, chosen)
    again = again._replace(extra={**again.extra, "replayed": np.ones(len(chosen), bool)})
    both = join([fresh, again])
    first = int(fresh.completions.group.max()) + 1
    return regroup(both, np.concatenate([fresh.completions.group, first + np.arange(len(chosen))]))


def _remember(old, kept, steps, new: Harvest, step: int, tolerate: int) -> dict[str, np.ndarray]:
    """The buffer after this step; nothing in it is older than `tolerate` steps."""
    parts, stamps = [], []
    if old is not None and len(kept):
        parts.append(pick(old, kept))
        stamps.append(steps[kept])
    if len(new.texts):
        parts.append(new)
        stamps.append(np.full(len(new.texts), step, np.int64))
    if not parts:
        return {}
    return {**under("row", from_harvest(join(parts))), "step": np.concatenate(stamps)}
