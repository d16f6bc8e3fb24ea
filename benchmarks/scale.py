"""The tables and the picture of docs/scale.md: the shipped configs, and one update step from 16 to 512 chips, compiled for TPUs.

Command:  python -m benchmarks.scale [NAME...] [--programs update,score,...]

compiles what docs/scale.json does not hold yet (of everything, or of the named rows; needs libtpu), then prints both tables and
writes docs/images/scale.png. Delete an entry of the file to compile it again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

from entjax.aot import programs, report
from entjax.config import load_config, parse_overrides
from entjax.plots import panels

ROOT = Path(__file__).parent.parent
KEPT = ROOT / "docs" / "scale.json"
PICTURE = ROOT / "docs" / "images" / "scale.png"
GB = 1e9


class Entry(NamedTuple):
    """One row: what `entjax compile configs/CONFIG.py --topology TOPOLOGY [--mesh MESH] CHANGES` compiles."""

    config: str
    topology: str
    mesh: str = ""
    changes: tuple[str, ...] = ()

    def plan(self) -> programs.Plan:
        words = [*self.changes, *([f"mesh={self.mesh}"] if self.mesh else [])]
        config = load_config(ROOT / "configs" / f"{self.config}.py").override(parse_overrides(words))
        return programs.plan(config, self.topology)


SHIPPED = (
    Entry("qwen25_math_1_5b", "v5e:4x4"),
    Entry("gemma3_1b", "v5e:4x4"),
    Entry("qwen3_8b_lora", "v5e:2x2"),
    Entry("qwen3_4b", "v6e:4x4"),
    Entry("qwen3_8b", "v5p:4x4x2"),
    Entry("llama31_8b", "v6e:4x8"),
    Entry("qwen25_math_7b", "v5p:4x4x4"),
    Entry("qwen25_math_7b", "v5e:16x16", "replica:2,fsdp:32,tensor:4"),
)
SERIES = {"": "fsdp over all chips", "replica:-1,fsdp:16": "fsdp 16, replica the rest"}
SLICES = {16: "v5e:4x4", 64: "v5e:8x8", 256: "v5e:16x16", 512: "v5e:16x32"}


def growing(mesh: str, chips: int) -> Entry:
    """The 1.5B update step with 16 rows a chip, one a microbatch."""
    return Entry(
        "qwen25_math_1_5b", SLICES[chips], mesh, (f"prompts={2 * chips}", "minibatches=1", "microbatches=16")
    )


def rows() -> dict[str, Entry]:
    """Every compiled row by its name; on 16 chips both series are the same program."""
    shipped = {f"{e.config} {e.topology}": e for e in SHIPPED}
    series = {
        f"{'replicas' if mesh else 'fsdp'} {chips}": growing(mesh, chips)
        for mesh in SERIES
        for chips in SLICES
        if not (mesh and chips == 16)
    }
    return shipped | series


def load() -> dict[str, Any]:
    return json.loads(KEPT.read_text()) if KEPT.exists() else {}


def complete(name: str, entry: Entry, wanted: list[str]) -> None:
    """Compile the programs of a row that the file does not hold."""
    kept = load()
    done = [one["program"] for one in kept[name]["programs"]] if name in kept else []
    plan = None
    for program in wanted or (["update"] if entry.changes else list(programs.PROGRAMS)):
        if program in done:
            continue
        plan = plan or entry.plan()
        if program not in plan.wanted:
            continue
        print(f"compiling {program} of {name} ...", flush=True)
        new = programs.compile_program(plan, program)
        kept = load()
        reports = [*(report.reports_of(kept[name]) if name in kept else []), new]
        reports.sort(key=lambda one: programs.PROGRAMS.index(one.program))
        table = report.summary(plan, reports)
        KEPT.write_text(json.dumps({**load(), name: table}, indent=1) + "\n")


def mesh_of(table: dict[str, Any]) -> str:
    return " x ".join(f"{name} {size}" for name, size in table["mesh"].items())


def sent(program: dict[str, Any]) -> float:
    return sum(program["collectives"].values()) / GB


def row(name: str, t: dict[str, Any]) -> str:
    """One line of the table of shipped configs."""
    of = {p["program"]: p for p in t["programs"]}
    update, s, total = of["update"], t["sizes"], sum(t["step"].values())
    best = {program: max(one["times"].values()) for program, one in of.items()}
    limit = max(update["times"], key=update["times"].get)
    cells = [
        name.split()[0], f"{t['chips']} {t['chip']}", mesh_of(t), f"{s['prompt']} + {s['new']}",
        f"{update['needed'] / GB:.1f}", f"{t['while_sampling'] / GB:.1f}", f"{sent(update):.0f}",
        f"{best['update']:.1f} s, {limit}, {update['mfu']:.0%}", f"{best['decode'] * 1e3:.1f} ms",
        f"{total:.0f} s, {t['step']['rollout'] / total:.0%}", f"{sum(p['cpu'] for p in of.values()) / 60:.1f} min",
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def points(kept: dict[str, Any], mesh: str) -> list[tuple[int, float, float]]:
    """(chips, GB of memory, GB sent) a chip of the update step, for the sizes that were compiled."""
    found = []
    for chips in SLICES:
        name = f"{'replicas' if mesh and chips != 16 else 'fsdp'} {chips}"
        if name in kept:
            update = kept[name]["programs"][0]
            found.append((chips, update["needed"] / GB, sent(update)))
    return found


def draw(series: dict[str, list[tuple[int, float, float]]]) -> None:
    """Memory and bytes sent per chip against the number of chips."""
    figure, axes = panels(1, 2, size=(9, 3.4))
    titles = ("HBM of the update step, GB per chip", "sent in one update, GB per chip")
    for column, (axis, title) in enumerate(zip(axes, titles, strict=True), 1):
        for label, found in series.items():
            axis.plot([p[0] for p in found], [p[column] for p in found], "o-", label=label)
        top = 1.15 * max(p[column] for found in series.values() for p in found)
        axis.set(xscale="log", xlabel="TPU v5e chips", ylim=(0, top), title=title)
        axis.set_xticks(list(SLICES), list(map(str, SLICES)), minor=False)
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[1].legend()
    figure.savefig(PICTURE, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", nargs="*", metavar="NAME", help="; ".join(rows()))
    parser.add_argument("--programs", default="", metavar="NAME,...", help="only these of a row's programs")
    options = parser.parse_args()
    for name in options.name or rows():
        complete(name, rows()[name], [word for word in options.programs.split(",") if word])
    kept = load()
    print("| config | chips | mesh | tokens | update GB | sampling GB | sent GB | update at best, limit, MFU | decode at best | "
          "step at best, rollout | compile, CPU |\n|" + "---|" * 11)  # fmt: skip
    print("\n".join(row(name, kept[name]) for name in rows() if kept.get(name, {}).get("step")))
    print("\n| mesh | chips | update GB | sent GB |\n|---|---|---|---|")
    series = {label: points(kept, mesh) for mesh, label in SERIES.items()}
    for label, found in series.items():
        for chips, memory, moved in found:
            print(f"| {label} | {chips} | {memory:.2f} | {moved:.1f} |")
    draw(series)


if __name__ == "__main__":
    main()
