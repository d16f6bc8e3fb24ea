"""What the metrics of a run say alone: the law R = -a e^H + b with a forecast, and the budget of entropy that was spent."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from entjax.analysis import figures
from entjax.analysis.entropy_law import Law, fit, forecast

WIDTH = 10  # steps whose mean is a point
EARLY = 1 / 3  # of the run: what the forecast may see


def sections(lines: Sequence[dict[str, Any]], out: Path) -> list[tuple]:
    """[(title, numbers, text, picture)] of a run's metrics."""
    steps = [line for line in lines if "entropy/mean" in line and "reward/mean" in line]
    tests = [line for line in lines if "eval/pass@1" in line]
    if len(steps) < 2:
        return [
            ("Entropy and reward", {}, f"The run has {len(steps)} finished steps; a law needs at least two.")
        ]
    h, r = (np.array([line[name] for line in steps]) for name in ("entropy/mean", "reward/mean"))
    return [_law(h, r, tests, out)]


def _law(h: np.ndarray, r: np.ndarray, tests: Sequence[dict[str, Any]], out: Path) -> tuple:
    smooth = lambda x: x[: len(x) // WIDTH * WIDTH].reshape(-1, WIDTH).mean(1)
    kinds = {"every step": (h, r)}
    if len(h) >= 3 * WIDTH:
        kinds[f"means of {WIDTH} steps"] = (smooth(h), smooth(r))
    if len(tests) >= 3:
        kinds["held-out evaluations (pass@1)"] = tuple(
            np.array([t[name] for t in tests]) for name in ("eval/entropy", "eval/pass@1")
        )
    laws: dict[str, Law] = {name: fit(*xy) for name, xy in kinds.items() if len(np.unique(xy[0])) > 1}
    lines = ["| points | a | b | ceiling b - a | R² |", "|---|---|---|---|---|"]
    for name, law in laws.items():
        lines.append(f"| {name} | {law.a:.3f} | {law.b:.3f} | {law.ceiling:.3f} | {law.r2:.3f} |")
    text = "R = -a e^H + b (arXiv 2505.22617), R the reward, H the policy entropy in nats.\n\n" + "\n".join(
        lines
    )
    numbers: dict[str, Any] = {name: law._asdict() for name, law in laws.items()}
    ahead = None
    points = kinds.get(f"means of {WIDTH} steps")
    if points is not None and len(points[0]) >= 6:
        ahead = forecast(*points, share=EARLY)
        numbers["forecast"] = {"error": ahead.error, "r2": ahead.r2, "points": ahead.points}
        text += (
            f"\n\nFitted to the first {ahead.points} of {len(points[0])} means, the law misses the later rewards by "
            f"{ahead.error:.3f} (root mean square; {ahead.constant:.3f} for the constant forecast that nothing changes)."
        )
    figures.law(kinds, laws, ahead, out / "law.png")
    spent = f"The entropy went from {h[0]:.3f} to {h[-1]:.3f} nats (least {h.min():.3f}) in {len(h)} steps."
    return "Entropy and reward", numbers, f"{spent}\n\n{text}", "law.png"
