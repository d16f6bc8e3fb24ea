"""The rows of docs/performance.md, written from the JSON of `entjax bench`.

Command:  python -m benchmarks.table     rewrites what stands between the two marks in docs/performance.md
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS, PAGE = ROOT / "benchmarks" / "results", ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- written by python -m benchmarks.table -->\n", "<!-- end -->"


def text() -> str:
    """Every kept result, a Markdown table a machine: one line a program, seconds and processor seconds."""
    ratios = ("times the base", "times the floor")
    heads = ("row", "program", "seconds (quartiles)", *ratios, "processor seconds", *ratios)
    tables = []
    for folder in sorted(path for path in RESULTS.iterdir() if path.is_dir()):
        # A sweep has its pictures.
        files = [path for path in sorted(folder.glob("*.json")) if path.stem != "sweep"]
        results = [result for path in files for result in json.loads(path.read_text())]
        machine = results[0]["hardware"]
        lines = [f"{machine['cpu']}, {machine['cores']} cores, {machine['device']}:", ""]
        lines += ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
        tables.append("\n".join([*lines, *(line for result in results for line in _lines(result))]) + "\n")
    return "\n".join(tables)


def page() -> str:
    """docs/performance.md with the table as it should be."""
    before, rest = PAGE.read_text().split(BEGIN)
    return before + BEGIN + "\n" + text() + "\n" + END + rest.split(END, 1)[1]


def _lines(result: Mapping[str, Any]) -> Iterator[str]:
    for number, (name, entry) in enumerate(result["programs"].items()):
        title = result["name"] if number == 0 else ""
        busy = entry["processor"]
        cells = [title, name, f"{entry['median']:.3f} ({entry['low']:.3f} to {entry['high']:.3f})", *_ratios(entry),
                 f"{busy['median']:.3f}", *_ratios(busy)]  # fmt: skip
        yield "| " + " | ".join(cells) + " |"


def _ratios(entry: Mapping[str, Any]) -> list[str]:
    base = f"{entry['over_base']['median']:.2f}" if "over_base" in entry else "base"
    return [base, f"{entry['over_floor']:.2f}" if "over_floor" in entry else ""]


if __name__ == "__main__":
    PAGE.write_text(page())
