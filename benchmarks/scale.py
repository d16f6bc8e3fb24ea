"""The tables and the picture of docs/scale.md from the JSON files that `entjax compile ... --json docs/scale/NAME.json` wrote.

Command:  python -m benchmarks.scale        prints both tables and writes docs/images/scale.png
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent.parent / "docs" / "scale"
PICTURE = FOLDER.parent / "images" / "scale.png"
GB = 1e9
SERIES = {"fsdp": "fsdp over all chips", "hsdp": "fsdp 16, replica the rest"}


def load(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{name}.json").read_text())


def configs() -> list[str]:
    """Names of the files that hold a shipped config on a slice, in the order of size."""
    names = [p.stem for p in FOLDER.glob("*.json") if p.stem.partition("_")[0] not in SERIES]
    return sorted(names, key=lambda name: (load(name)["chips"], name))


def mesh_of(table: dict[str, Any]) -> str:
    return " x ".join(f"{name} {size}" for name, size in table["mesh"].items())


def row(name: str) -> str:
    """One line of the table of shipped configs."""
    t = load(name)
    programs = {p["program"]: p for p in t["programs"]}
    update, decode = programs["update"], programs["decode"]
    best = {name: max(p["times"].values()) for name, p in programs.items()}
    s = t["sizes"]
    waves = -(-s["rows"] // s["at_once"])
    rollout = best["prefill"] + waves * s["new"] * best["decode"]
    total = rollout + best["score"] + best["update"]
    limit = max(update["times"], key=update["times"].get)
    return (
        f"| {name} | {t['chips']} {t['chip']} | {mesh_of(t)} | {s['prompt']} + {s['new']} | {update['needed'] / GB:.1f} | "
        f"{(update['arguments'] + decode['needed']) / GB:.1f} | {sum(update['collectives'].values()) / GB:.0f} | "
        f"{best['update']:.1f} s, {limit}, {update['mfu']:.0%} | {best['decode'] * 1e3:.1f} ms | "
        f"{total:.0f} s, {rollout / total:.0%} | "
        f"{sum(p['seconds'] for p in t['programs']):.0f} s |"
    )


def scaling() -> dict[str, list[tuple[int, float, float]]]:
    """(chips, peak GB, GB sent) per chip of the update step, by series."""
    found: dict[str, list[tuple[int, float, float]]] = {}
    for key in SERIES:
        for path in FOLDER.glob(f"{key}_*.json"):
            t = load(path.stem)
            update = t["programs"][0]
            point = (t["chips"], update["needed"] / GB, sum(update["collectives"].values()) / GB)
            found.setdefault(key, []).append(point)
    return {key: sorted(points) for key, points in found.items()}


def draw(series: dict[str, list[tuple[int, float, float]]]) -> None:
    """Memory and bytes sent per chip against the number of chips."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), constrained_layout=True)
    for key, points in series.items():
        chips, memory, sent = zip(*points, strict=True)
        axes[0].plot(chips, memory, "o-", label=SERIES[key])
        axes[1].plot(chips, sent, "o-", label=SERIES[key])
    for axis, what in zip(
        axes, ("HBM of the update step, GB per chip", "sent in one update, GB per chip"), strict=True
    ):
        axis.set(xscale="log", xlabel="TPU v5e chips", ylim=(0, None), title=what)
        axis.set_xticks([16, 64, 256, 512], ["16", "64", "256", "512"], minor=False)
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[1].legend()
    figure.savefig(PICTURE, dpi=130)


def main() -> None:
    print("| config | chips | mesh | tokens | update GB | sampling GB | sent GB | update at best, limit, MFU | decode at best | "
          "step at best, rollout | compile |\n|" + "---|" * 11)  # fmt: skip
    print("\n".join(map(row, configs())))
    print("\n| mesh | chips | update GB | sent GB |\n|---|---|---|---|")
    series = scaling()
    for key, points in series.items():
        for chips, memory, sent in points:
            print(f"| {SERIES[key]} | {chips} | {memory:.2f} | {sent:.1f} |")
    draw(series)


if __name__ == "__main__":
    main()
