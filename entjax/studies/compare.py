"""Comparisons of runs: at the end of the budget, at matched entropy, at matched pass@1, always paired by warm start and seed.

On an easy task a method that slows learning looks good on everything that learning costs; stopping GRPO early does the same for
nothing. So a run is also compared with its GRPO twin (same setting, warm start, seed, budget) where the twin's entropy, or its
pass@1, was the run's final one: on the straight line through the twin's evaluations. Where the twin first came there would be a
biased choice, because a noisy curve is there first when it is lucky: recipes that do nothing would seem to lose pass@32. The line
is biased the same way, half as much, and GRPO's luck is in every comparison with its few runs. What a comparison says of arms
that end as GRPO does is therefore its error (`error_of`), and a difference has to lie outside of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

Result = Mapping[str, Any]
Pairs = Sequence[tuple[Result, Result]]
MEASURES = ("pass@1", "pass@4", "pass@16", "pass@32", "distinct_correct", "entropy")
ALIKE, ENOUGH = 0.03, 5  # of GRPO's final entropy; arms that show a comparison's error


class Spread(NamedTuple):
    """A mean over runs with its standard error; NaN without runs, and an error of NaN with one."""

    mean: float
    error: float
    n: int

    @property
    def margin(self) -> float:
        """Half the width of the 95% confidence interval of Student's t; infinite for fewer than three runs."""
        return float(stats.t.ppf(0.975, self.n - 1)) * self.error if self.n >= 3 else float("inf")

    def __str__(self) -> str:
        if not self.n:
            return "-"
        return f"{self.mean:.3f}" + (f" ± {self.error:.3f}" if self.n > 1 else "")

    def signed(self) -> str:
        """With its sign, for a difference."""
        return f"+{self}" if self.n and self.mean >= 0 else str(self)


def spread(values: Sequence[float]) -> Spread:
    """Of the finite ones."""
    x = np.asarray(values, np.float64)
    x = x[np.isfinite(x)]
    if not len(x):
        return Spread(float("nan"), float("nan"), 0)
    error = float(x.std(ddof=1) / np.sqrt(len(x))) if len(x) > 1 else float("nan")
    return Spread(float(x.mean()), error, len(x))


def final(run: Result) -> Mapping[str, float]:
    """The last evaluation."""
    return run["evaluations"][-1]


def first(run: Result) -> Mapping[str, float]:
    """The evaluation of the warm start."""
    return run["evaluations"][0]


def smooth(x: Sequence[float], width: int = 10) -> np.ndarray:
    """Running mean; shorter at the beginning."""
    total = np.cumsum(np.concatenate([[0.0], np.asarray(x, np.float64)]))
    at = np.arange(1, len(x) + 1)
    low = np.maximum(at - width, 0)
    return (total[at] - total[low]) / (at - low)


def lowest(run: Result) -> float:
    """The least entropy of the run, of means of ten steps."""
    return float(smooth(run["entropy"])[min(9, len(run["entropy"]) - 1) :].min())


def distance(run: Result) -> float:
    """Mean relative distance of the training entropy from its target in the last half, both of ten steps; NaN without."""
    if not run["target"]:
        return float("nan")
    half = len(run["entropy"]) // 2
    return float(np.abs(smooth(run["entropy"])[half:] / smooth(targets(run))[half:] - 1).mean())


def targets(run: Result) -> np.ndarray:
    """The target of every step: a number, or a line from one to another over the run."""
    start, end = np.broadcast_to(run["target"], 2)
    return np.linspace(start, end, len(run["entropy"]))


def stopped(run: Result, entropy: float) -> dict[str, float] | None:
    """The run where its entropy first falls to `entropy`, between two evaluations; None if it never does."""
    points = run["evaluations"]
    reached = [p["entropy"] <= entropy for p in points]
    if not any(reached):
        return None
    i = reached.index(True)
    before, after = points[max(i - 1, 0)], points[i]
    fallen = before["entropy"] - after["entropy"]
    share = (before["entropy"] - entropy) / fallen if fallen else 1.0
    return {m: before[m] + share * (after[m] - before[m]) for m in MEASURES if m in before}


def on_line(run: Result, matched: str, level: float, measure: str) -> float:
    """`measure` where `matched` is `level`, on the least-squares line through the evaluations; NaN for a level that is more than
    half of the run's way outside of it."""
    x, y = (np.array([p[m] for p in run["evaluations"]]) for m in (matched, measure))
    way = x.max() - x.min()
    if not way or not x.min() - way / 2 <= level <= x.max() + way / 2:
        return float("nan")
    return float(np.polyval(np.polyfit(x, y, 1), level))


def twins(results: Sequence[Result], arm: str, other: str = "grpo") -> list[tuple[Result, Result]]:
    """Pairs (run of the arm, run of the other) with everything else equal."""
    key = lambda r: tuple(
        r[k] for k in ("setting", "warm", "seed", "steps", "prompts", "samples", "lr", "eval_prompts")
    )
    others = {key(r): r for r in results if r["arm"] == other}
    return [(r, others[key(r)]) for r in results if r["arm"] == arm and key(r) in others]


def gain(pairs: Pairs, measure: str) -> Spread:
    """Final value of the arm minus that of its twin."""
    return spread([final(a)[measure] - final(b)[measure] for a, b in pairs])


def gain_at(pairs: Pairs, matched: str, measure: str) -> Spread:
    """The same, with the twin where its `matched` was the arm's final one; without pairs where it was never near."""
    return spread([final(a)[measure] - on_line(b, matched, final(a)[matched], measure) for a, b in pairs])


def ahead(pairs: Pairs) -> tuple[Spread, int]:
    """pass@32 at equal pass@1, and in how many pairs the twin never came so far, so that its end stands there and flatters it.
    Without pairs whose twin was above all the time."""
    gains, ends = [], 0
    for a, b in pairs:
        end = final(a)
        there = on_line(b, "pass@1", end["pass@1"], "pass@32")
        if np.isnan(there) and end["pass@1"] > max(p["pass@1"] for p in b["evaluations"]):
            there, ends = final(b)["pass@32"], ends + 1
        gains.append(end["pass@32"] - there)
    return spread(gains), ends


def alike(results: Sequence[Result]) -> list[Pairs]:
    """The arms of a setting that end as GRPO does, each as its pairs: entropy within 3%, pass@1 and pass@32 not told apart."""
    end = over([r for r in results if r["arm"] == "grpo"], lambda r: final(r)["entropy"]).mean
    pairs = [twins(results, arm) for arm in sorted({r["arm"] for r in results} - {"grpo"})]
    same = lambda p: not (told(gain(p, "pass@1")) or told(gain(p, "pass@32")))
    return [p for p in pairs if len(p) >= 3 and abs(gain(p, "entropy").mean) < ALIKE * end and same(p)]


def error_of(ask: Callable[[Pairs], Spread], like: Sequence[Pairs]) -> tuple[float, float]:
    """The least and the most that a comparison says of arms that end as GRPO does; (0, 0) where these are fewer than five."""
    found = [s.mean for s in map(ask, like) if s.n]
    return (min(found), max(found)) if len(found) >= ENOUGH else (0.0, 0.0)


def told(found: Spread, error: tuple[float, float] = (0.0, 0.0)) -> int:
    """1 or -1, the sign of a difference whose confidence interval leaves out 0 and which lies outside of the comparison's error;
    else 0."""
    if not abs(found.mean) > found.margin or error[0] <= found.mean <= error[1]:
        return 0
    return 1 if found.mean > 0 else -1


def over(runs: Sequence[Result], value: Callable[[Result], float]) -> Spread:
    """A number of each run."""
    return spread([value(run) for run in runs])
