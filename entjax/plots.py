"""Pictures of runs: the curves that tell how learning and entropy went, several runs over each other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from entjax.log import read_lines

PANELS = (
    ("reward", ("reward/mean",)),
    ("policy entropy (nats)", ("entropy/mean",)),
    ("held-out pass@k", ("eval/pass@",)),
    ("completion length (tokens)", ("length/mean",)),
    ("ratio and clipping", ("clip/low", "clip/high", "kl/old")),
    ("gradient norm", ("grad_norm",)),
)
TOOLS = (("share of answers that call a tool", ("turns/call_rate",)),)  # of runs with an environment
COLORS = ("#1f6feb", "#d1495b", "#2a9d8f", "#e9a03b", "#7b5ea7", "#555555", "#c2185b", "#6d8f00")
STYLES = ("-", "--", ":", "-.")


def panels(rows: int = 1, columns: int = 1, *, size: tuple[float, float], **options: Any) -> tuple[Any, Any]:
    """(figure, axes) to draw on and save; a notebook's own way of showing pictures stays as it is, so no pyplot."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns, **options)


def dashboard(workdirs: Sequence[Path], target: Path, labels: Sequence[str] | None = None) -> Path:
    """A PNG with one panel per quantity and one colour per run."""
    runs = [read_lines(Path(w) / "metrics.jsonl") for w in workdirs]
    labels = list(labels or (Path(w).name for w in workdirs))
    if len(labels) != len(runs):
        raise ValueError(
            f"{len(runs)} run directories need as many labels, got {len(labels)}: {', '.join(labels)}."
        )
    with_tools = any("turns/call_rate" in record for run in runs for record in run)
    shown = (*PANELS[:4], *TOOLS, *PANELS[5:]) if with_tools else PANELS
    figure, axes = panels(2, 3, size=(14, 7))
    for axis, (title, prefixes) in zip(axes.flat, shown, strict=True):
        names = sorted({n for run in runs for r in run for n in r if n.startswith(prefixes)}, key=_natural)
        for run, label, color in zip(runs, labels, COLORS * len(runs), strict=False):
            for name, style in zip(names, STYLES * len(names), strict=False):
                points = [(r["step"], r[name]) for r in run if isinstance(r.get(name), (int, float))]
                if points:
                    axis.plot(*zip(*points, strict=True), style, color=color, label=label, linewidth=1.5,
                              marker="o" if len(points) < 20 else None, markersize=3)  # fmt: skip
        axis.set_title(title, loc="left", fontsize=10)
        axis.set_xlabel("step", fontsize=8)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        if len(names) > 1:  # colours are runs, which the first panel names
            lines = [
                axis.plot([], [], style, color="#555555")[0]
                for _, style in zip(names, STYLES * len(names), strict=False)
            ]
            axis.legend(lines, [n.removeprefix("eval/") for n in names], fontsize=7, frameon=False)
        elif title == shown[0][0] and len(runs) > 1 and names:
            axis.legend(fontsize=7, frameon=False)
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=110)
    return target


def _natural(name: str) -> tuple:
    head, _, tail = name.rpartition("@")
    return (head, int(tail)) if tail.isdigit() else (name, 0)
