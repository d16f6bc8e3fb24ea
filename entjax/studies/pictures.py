"""Pictures of the study: entropy curves with bands, and where the arms end between pass@1 and pass@32."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from entjax.plots import panels
from entjax.studies.compare import Result, final, gain, smooth, targets, twins

COLORS = ("#d1495b", "#1f6feb", "#2a9d8f", "#e9a03b", "#7b5ea7", "#555555", "#c2185b", "#6d8f00", "#00838f")
FAR = 0.15  # from GRPO in pass@1 or pass@32


def entropies(runs: Sequence[Result], arms: Sequence[str], path: Path, width: int = 5) -> Path:
    """A panel an arm: mean entropy of its runs (means of `width` steps) with a band of one standard deviation, GRPO's in grey."""
    others = [name for name in arms if name != "grpo"] or list(arms)
    columns = min(4, len(others))
    height = -(-len(others) // columns)
    figure, axes = panels(
        height, columns, size=(3.4 * columns, 2.6 * height), sharex=True, sharey=True, squeeze=False
    )
    for axis in axes.flat[len(others) :]:
        axis.axis("off")
    for axis, name, color in zip(axes.flat, others, COLORS[1:] * len(others), strict=False):
        for arm, shade in (("grpo", "#9a9a9a"), (name, color)):
            _band(axis, [r for r in runs if r["arm"] == arm], width, shade)
        aimed = next((r for r in runs if r["arm"] == name and r["target"]), None)
        if aimed:
            goal = targets(aimed)
            axis.plot(np.arange(1, len(goal) + 1), goal, color=color, linewidth=0.8, linestyle="--")
        axis.set_title(name, fontsize=10, loc="left")
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.2)
        axis.spines[["top", "right"]].set_visible(False)
    figure.supxlabel("step")
    figure.supylabel("policy entropy (nats)")
    return _save(figure, path)


def frontier(runs: Sequence[Result], arms: Sequence[str], path: Path) -> Path:
    """pass@1 against pass@32: GRPO's way through its evaluations, and where every arm ends (mean, standard error)."""
    figure, axis = panels(size=(9, 5))
    grpo = [r for r in runs if r["arm"] == "grpo"]
    if grpo:
        length = min(len(r["evaluations"]) for r in grpo)
        way = np.mean(
            [[(p["pass@1"], p["pass@32"]) for p in r["evaluations"][:length]] for r in grpo], axis=0
        )
        axis.plot(*way.T, color="#9a9a9a", marker=".", linewidth=1.2, label="GRPO, from warm start to end")
    for i, name in enumerate(arms):
        color, marker = COLORS[i % len(COLORS)], "os^"[i // len(COLORS) % 3]
        ends = np.array([(final(r)["pass@1"], final(r)["pass@32"]) for r in runs if r["arm"] == name])
        error = ends.std(0, ddof=1) / np.sqrt(len(ends)) if len(ends) > 1 else np.zeros(2)
        axis.errorbar(
            *ends.mean(0), xerr=error[0], yerr=error[1], fmt=marker, color=color, capsize=2, label=name
        )
    axis.set_xlabel("pass@1")
    axis.set_ylabel("pass@32")
    axis.grid(alpha=0.2)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return _save(figure, path)


def differences(runs: Sequence[Result], arms: Sequence[str], path: Path) -> Path:
    """pass@1 and pass@32 at the end, both minus GRPO's of the same warm start and seed; color: entropy, minus GRPO's. What ends
    far from all others is named in a corner: it would press them into one spot."""
    figure, axis = panels(size=(12, 9))
    found = {name: [gain(twins(runs, name), m) for m in ("pass@1", "pass@32", "entropy")] for name in arms}
    far = {name: g for name, g in found.items() if max(abs(g[0].mean), abs(g[1].mean)) > FAR}
    found = {name: g for name, g in found.items() if name not in far}
    if far:
        lines = ["outside:", *(f"{name} {g[0].signed()}, {g[1].signed()}" for name, g in far.items())]
        axis.text(0, 1, "\n".join(lines), fontsize=8, va="top", transform=axis.transAxes)
    x, y, h = (np.array([gains[i].mean for gains in found.values()]) for i in range(3))
    dx, dy = (np.nan_to_num([gains[i].error for gains in found.values()]) for i in range(2))
    axis.errorbar(x, y, xerr=dx, yerr=dy, fmt="none", ecolor="#cccccc", linewidth=0.7, zorder=1)
    limit = float(np.nanmax(np.abs(h), initial=0)) or 1.0
    dots = axis.scatter(
        x, y, c=h, cmap="coolwarm_r", vmin=-limit, vmax=limit, s=28, edgecolors="#444444", linewidths=0.5
    )
    for name, left, up in zip(found, x, y, strict=True):
        axis.annotate(name, (left, up), fontsize=6, xytext=(4, 2), textcoords="offset points")
    axis.axhline(0, color="#9a9a9a", linewidth=0.7)
    axis.axvline(0, color="#9a9a9a", linewidth=0.7)
    figure.colorbar(dots, label="entropy at the end, minus GRPO's (nats)")
    axis.set_xlabel("pass@1 at the end, minus GRPO's")
    axis.set_ylabel("pass@32 at the end, minus GRPO's")
    axis.spines[["top", "right"]].set_visible(False)
    return _save(figure, path)


def _band(axis, runs: Sequence[Result], width: int, color: str) -> None:
    if not runs:
        return
    length = min(len(r["entropy"]) for r in runs)
    curves = np.stack([smooth(r["entropy"][:length], width) for r in runs])
    step, mean = np.arange(1, length + 1), curves.mean(0)
    axis.plot(step, mean, color=color, linewidth=1.4)
    if len(runs) > 1:
        sd = curves.std(0, ddof=1)
        axis.fill_between(step, mean - sd, mean + sd, color=color, alpha=0.2, linewidth=0)


def _save(figure, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    return path
