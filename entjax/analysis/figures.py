"""The pictures of `entjax analyze`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from entjax.analysis.boundary import Boundary
from entjax.analysis.entropy_law import Forecast, Law
from entjax.analysis.token_entropy import Fork
from entjax.plots import panels

BLUE, RED, GREEN, GREY = "#1f6feb", "#d1495b", "#2a9d8f", "#9a9a9a"


def law(kinds: Mapping[str, tuple], laws: Mapping[str, Law], ahead: Forecast | None, path: Path) -> None:
    """Reward over entropy with the fitted laws, and the forecast from the first part dashed."""
    figure, axis = _one()
    styles = ((GREY, 8, 0.5), (BLUE, 26, 0.9), (RED, 40, 1.0))
    for (name, (h, r)), (color, size, alpha) in zip(kinds.items(), styles, strict=False):
        axis.scatter(h, r, s=size, color=color, alpha=alpha, linewidths=0)
        if name in laws:
            x = np.linspace(min(h), max(h), 50)
            axis.plot(
                x, laws[name].at(x), color=color, linewidth=1.5, label=f"{name}, R² {laws[name].r2:.2f}"
            )
    if ahead is not None:
        h = next(iter(kinds.values()))[0]
        x = np.linspace(min(h), max(h), 50)
        axis.plot(
            x,
            ahead.law.at(x),
            "--",
            color=GREEN,
            linewidth=1.2,
            label=f"forecast from the first {ahead.points} means",
        )
    axis.invert_xaxis()  # a run goes from left to right
    axis.set(xlabel="policy entropy (nats)", ylabel="reward", title="R = -a e^H + b")
    axis.legend(fontsize=8, frameon=False)
    _save(figure, path)


def pass_at_k(found: Boundary, path: Path) -> None:
    """pass@k over k, both policies."""
    figure, axis = _one()
    axis.plot(found.ks, found.base, "o-", color=GREY, label="base")
    axis.plot(found.ks, found.tuned, "o-", color=BLUE, label="tuned")
    if found.crossing is not None:
        axis.axvline(found.crossing, color=RED, linewidth=0.8, linestyle=":")
    axis.set_xscale("log", base=2)
    axis.set(xlabel="k", ylabel="pass@k")
    axis.legend(fontsize=8, frameon=False)
    _save(figure, path)


def entropies(values: Mapping[str, np.ndarray], forks: Sequence[Fork], path: Path) -> None:
    """How many tokens have at least a given entropy; and the tokens that fork most."""
    figure, (left, right) = panels(1, 2, size=(10, 4))
    for (name, x), color in zip(values.items(), (GREY, BLUE), strict=False):
        ordered = np.sort(x)[::-1]
        left.plot(np.linspace(0, 1, len(ordered)), ordered, color=color, label=name)
    left.axvline(0.2, color=RED, linewidth=0.8, linestyle=":")
    left.set(xlabel="share of the tokens", ylabel="entropy at least (nats)")
    left.legend(fontsize=8, frameon=False)
    bars = list(reversed(forks))
    right.barh([repr(f.token)[1:-1] for f in bars], [f.forks for f in bars], color=BLUE)
    right.set(xlabel="times sampled at a fork (top 20% of entropy)")
    right.tick_params(labelsize=8)
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    _save(figure, path)


def divergence(js: np.ndarray, mask: np.ndarray, start: np.ndarray, path: Path) -> None:
    """Jensen-Shannon divergence over the position in the answer: mean, and the share of tokens that switch."""
    figure, axis = _one()
    position = np.arange(js.shape[1])[None] - start[:, None]
    last = int(position[mask].max())
    at = [js[mask & (position == t)] for t in range(last + 1)]
    axis.plot([x.mean() if len(x) else np.nan for x in at], color=BLUE, label="mean JS (nats)")
    axis.plot([(x > 0.1).mean() if len(x) else np.nan for x in at], color=RED, label="share with JS > 0.1")
    axis.set(xlabel="token of the answer", ylim=(0, None))
    axis.legend(fontsize=8, frameon=False)
    _save(figure, path)


def _one() -> Any:
    figure, axis = panels(size=(6, 4))
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.2)
    return figure, axis


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, dpi=110)
