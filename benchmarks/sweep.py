"""How the cost of a step grows with batch, length, vocabulary and model size: four small sweeps, a picture each.

Each point is a whole step taken apart into rollout and update, in processor seconds, beside the arithmetic floor of each half
at the matmul speed of the same rounds. The pictures are drawn when all points are there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.harness import Row
from benchmarks.work import MODELS, Work, halves
from entjax.plots import panels

BASE, MODEL = Work(4, 8, 32, 64), MODELS["4.2M"]
PICTURES = Path(__file__).parent.parent / "docs" / "images"


class Axis(NamedTuple):
    """One sweep: what changes, at which values, and the work and the model at each of them."""

    label: str
    points: tuple[int, ...]
    at: Callable[[int], tuple[Work, Any]]


AXES = {
    "batch": Axis(
        "rows, eight to a prompt",
        (8, 16, 32, 64, 128),
        lambda n: (BASE._replace(prompts=n // 8), MODEL),
    ),
    "length": Axis("completion tokens", (32, 64, 128, 256), lambda n: (BASE._replace(new=n), MODEL)),
    "vocabulary": Axis("vocabulary", (512, 4096, 32_768), lambda n: (BASE, MODEL.replace(vocab=n))),
    "model": Axis(
        "width (four layers, FFN four times as wide)",
        (128, 256, 512),
        lambda n: (BASE, MODEL.replace(width=n, heads=n // 64, kv_heads=n // 128, mlp=4 * n)),
    ),
}


def rows(axes=tuple(AXES), rounds=3, out=None) -> Iterator[Row]:
    """A row for each point."""
    for name in axes:
        for value in AXES[name].points:
            yield _point(name, value, rounds)
        if out is not None:
            draw(name, json.loads((Path(out) / "sweep.json").read_text()))


def _point(name: str, value: int, rounds: int) -> Row:
    work, config = AXES[name].at(value)
    both = halves(config, work)
    return Row(
        f"sweep {name} {value}", "a rollout batch, or one update; float32",
        {**work._asdict(), "axis": name, "value": value, "flops": both.flops},
        {"rollout": both.sample, "update": both.update}, None, 0.0, rounds,
    )  # fmt: skip


def draw(name: str, results: list[dict[str, Any]]) -> Path:
    """Processor seconds of both halves against the swept size, and their floors."""
    found = sorted(
        (r for r in results if r["shapes"].get("axis") == name), key=lambda r: r["shapes"]["value"]
    )
    sizes = [r["shapes"]["value"] for r in found]
    figure, axis = panels(size=(5, 3.6))
    for half, color in (("rollout", "#1f6feb"), ("update", "#d1495b")):
        taken = [r["programs"][half]["processor"]["median"] for r in found]
        floor = [
            r["shapes"]["flops"][half] / r["matmul_flops_per_second"]["per_processor_second"] for r in found
        ]
        axis.plot(sizes, taken, "o-", color=color, label=half)
        axis.plot(sizes, floor, ":", color=color, label=f"{half}: floor")
    axis.set(xscale="log", yscale="log", xlabel=AXES[name].label, ylabel="processor seconds")
    axis.set_xticks(sizes, list(map(str, sizes)))
    axis.minorticks_off()
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=8)
    target = PICTURES / f"sweep_{name}.png"
    figure.savefig(target, dpi=110)
    return target
