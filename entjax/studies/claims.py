"""What the papers claim, as questions to the study's results: claimed, measured, and whether it holds here.

A difference to GRPO holds when the 95% confidence interval of its mean over paired runs (Student's t) lies above 0 and its mean
above what arms show that end as GRPO does, does not when both lie below, and cannot be seen at this scale otherwise, or with
fewer than three pairs. A number with a bound holds or
does not, from three runs on; a target is held only where GRPO is farther from it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from entjax.analysis import entropy_law
from entjax.studies.compare import (
    Result,
    Spread,
    ahead,
    alike,
    distance,
    error_of,
    final,
    first,
    gain,
    gain_at,
    over,
    smooth,
    spread,
    told,
    twins,
)

HOLDS, FAILS, UNSEEN = "holds", "does not", "cannot be seen at this scale"


class Claim(NamedTuple):
    arm: str
    paper: str
    claimed: str
    ask: Callable[
        [Sequence[Result], str], tuple[str, str]
    ]  # (results of a setting, arm) -> measured, verdict


def verdict(found: Spread, error: tuple[float, float] = (0.0, 0.0)) -> str:
    """Of a difference that should be positive."""
    return {1: HOLDS, -1: FAILS, 0: UNSEEN}[told(found, error)]


def more(measure: str) -> Callable:
    """More of the measure than GRPO at the end."""

    def ask(results, arm):
        asked = lambda pairs: gain(pairs, measure)
        found, error = asked(twins(results, arm)), error_of(asked, alike(results))
        return f"{measure} at the end, minus GRPO's: {found.signed()} ({found.n} pairs)", verdict(
            found, error
        )

    return ask


def more_at(matched: str, measure: str) -> Callable:
    """More of the measure than GRPO where it had the arm's final `matched`."""

    def ask(results, arm):
        pairs, asked = twins(results, arm), lambda pairs: gain_at(pairs, matched, measure)
        found, error = asked(pairs), error_of(asked, alike(results))
        never = len(pairs) - found.n
        beyond = f"; GRPO never came near in {never}" if never else ""
        return (
            f"{measure}, minus GRPO's at equal {matched}: {found.signed()} ({found.n} pairs{beyond})",
            verdict(found, error),
        )

    return ask


def beyond(others: Sequence[str]) -> Callable:
    """More pass@32 than each of the others where it had the arm's pass@1, at its end where it never came so far."""

    def ask(results, arm):
        asked = lambda pairs: ahead(pairs)[0]
        error = {"grpo": error_of(asked, alike(results))}
        found = {other: ahead(twins(results, arm, other)) for other in others}
        each = [verdict(spread, error.get(other, (0.0, 0.0))) for other, (spread, _) in found.items()]
        note = lambda ends: f" (the end of {ends} that never came so far)" if ends else ""
        text = ", ".join(f"{other} {spread.signed()}{note(ends)}" for other, (spread, ends) in found.items())
        said = next((v for v in (FAILS, UNSEEN) if v in each), HOLDS)
        return f"pass@32 at equal pass@1, minus that of {text}", said

    return ask


def holds_target(bound: float) -> Callable:
    """The training entropy stays within `bound` of the target over the last half, and nearer than GRPO's, which has none."""

    def ask(results, arm):
        found = over([r for r in results if r["arm"] == arm], distance)
        pairs = [(a, {**b, "target": a["target"]}) for a, b in twins(results, arm)]
        without = over([b for _, b in pairs], distance)
        nearer = spread([distance(b) - distance(a) for a, b in pairs])
        text = f"mean distance from the target {found.mean:.1%}, GRPO's {without.mean:.1%} ({found.n} runs)"
        if found.n >= 3 and found.mean > bound:
            return text, FAILS
        return text, HOLDS if nearer.mean > nearer.margin else UNSEEN

    return ask


def collapses(results: Sequence[Result], arm: str) -> tuple[str, str]:
    """The entropy falls to less than half of the warm start's."""
    found = over([r for r in results if r["arm"] == arm], lambda r: final(r)["entropy"] / first(r)["entropy"])
    text = f"final entropy over the start's: {found}"
    return text, UNSEEN if found.n < 3 else HOLDS if found.mean < 0.5 else FAILS


def loses(measure: str) -> Callable:
    """The run ends with less of the measure than its warm start."""

    def ask(results, arm):
        found = spread([first(r)[measure] - final(r)[measure] for r in results if r["arm"] == arm])
        return f"{measure} lost from start to end: {found.signed()} ({found.n} runs)", verdict(found)

    return ask


def law(run: Result) -> dict[str, Any]:
    """R = -a e^H + b of one run: per step, of means of ten steps, of evaluations; and the forecast from the first third."""
    h, r = np.asarray(run["entropy"]), np.asarray(run["reward"])
    points = run["evaluations"]
    hs, rs = smooth(h)[9::10], smooth(r)[9::10]
    third = max(3, len(hs) // 3)
    early = entropy_law.fit(hs[:third], rs[:third]) if len(hs) > third else None
    return {
        "per step": entropy_law.fit(h, r).r2,
        "smoothed": entropy_law.fit(hs, rs).r2,
        "evaluations": entropy_law.fit([p["entropy"] for p in points], [p["pass@1"] for p in points]).r2,
        "forecast": float("nan") if early is None else abs(float(early.at(hs[-1])) - float(rs[-1])),
    }


def follows_law(results: Sequence[Result], arm: str) -> tuple[str, str]:
    runs = [r for r in results if r["arm"] == arm and len(r["entropy"]) >= 40]
    if not runs:
        return "no run of 40 steps", UNSEEN
    fits = [law(r) for r in runs]
    mean = {name: float(np.mean([f[name] for f in fits])) for name in fits[0]}
    text = (f"R² {mean['per step']:.2f} per step, {mean['smoothed']:.2f} on means of ten steps, {mean['evaluations']:.2f} on "
            f"evaluations; forecast from the first third off by {mean['forecast']:.3f}")  # fmt: skip
    return text, HOLDS if mean["smoothed"] >= 0.9 else FAILS


RIVALS = ("steer", "aepo", "entropic", "siren", "entrocraft", "kl_cov")
COV, BUDGET = "Cui et al., arXiv 2505.22617", "this project"
CLAIMS = (
    Claim("grpo", COV, "without help the entropy collapses", collapses),
    Claim("grpo", COV, "R = -a e^H + b describes a run (R² >= 0.9)", follows_law),
    Claim("grpo", "arXiv 2504.13837", "RLVR loses pass@32 against its start", loses("pass@32")),
    Claim("kl_cov", COV, "keeps more entropy than GRPO", more("entropy")),
    Claim("kl_cov", COV, "and a better pass@1", more("pass@1")),
    Claim("clip_cov", COV, "keeps more entropy than GRPO", more("entropy")),
    Claim("clip_cov", COV, "and a better pass@1", more("pass@1")),
    Claim("steer", "STEER, arXiv 2510.10150", "keeps more entropy than GRPO", more("entropy")),
    Claim("steer", "STEER, arXiv 2510.10150", "and a better pass@1", more("pass@1")),
    Claim("aepo", "AEPO, arXiv 2510.08141", "holds any chosen entropy (10%)", holds_target(0.1)),
    Claim("aepo", "AEPO, arXiv 2510.08141", "and a better pass@1 than GRPO", more("pass@1")),
    Claim("entropic", "EntroPIC, arXiv 2511.15248", "holds a target entropy (10%)", holds_target(0.1)),
    Claim("siren", "SIREN, arXiv 2509.25133", "better pass@1 than GRPO", more("pass@1")),
    Claim("siren", "SIREN, arXiv 2509.25133", "and better pass@32", more("pass@32")),
    Claim(
        "entrocraft", "Entrocraft, arXiv 2604.26326", "follows an entropy schedule (10%)", holds_target(0.1)
    ),
    Claim("entrocraft", "Entrocraft, arXiv 2604.26326", "better pass@32 than GRPO", more("pass@32")),
    Claim("entropy_budget", BUDGET, "holds its target within 5%", holds_target(0.05)),
    Claim(
        "entropy_budget_decay", BUDGET, "and follows a falling line of targets within 5%", holds_target(0.05)
    ),
    Claim(
        "entropic_decay", "EntroPIC, arXiv 2511.15248", "as a bound for comparison: 5%", holds_target(0.05)
    ),
    Claim(
        "entrocraft_decay",
        "Entrocraft, arXiv 2604.26326",
        "as a bound for comparison: 5%",
        holds_target(0.05),
    ),
    Claim("entropy_budget", BUDGET, "more pass@32 than GRPO", more("pass@32")),
    Claim("entropy_budget", BUDGET, "more pass@32 at equal pass@1", more_at("pass@1", "pass@32")),
    Claim("entropy_budget", BUDGET, "more pass@1 at equal entropy", more_at("entropy", "pass@1")),
    Claim(
        "entropy_budget_anchored",
        BUDGET,
        "an anchor besides: more pass@32 at equal pass@1",
        beyond(("grpo",)),
    ),
    Claim("entropy_budget_anchored", BUDGET, "and more than that of six methods for entropy", beyond(RIVALS)),
    Claim("entropy_budget_anchored", BUDGET, "and more than an adaptive KL's", beyond(("kl_adaptive",))),
    Claim("entropy_budget_anchored", BUDGET, "and more than the anchor's alone", beyond(("grpo_anchored",))),
    Claim("entropy_budget_anchored", BUDGET, "and follows its line within 5%", holds_target(0.05)),
)
