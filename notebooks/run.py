"""Execute a notebook (a text file in jupytext's percent format) and save what it shows beside it.

    python notebooks/run.py notebooks/01_first_steps.py [NAME=VALUE ...] [--out FOLDER]

writes OUT/01_first_steps.md: text, code, printed lines and pictures. NAME=VALUE replaces numbers of the first code cell, which
holds the sizes; the tests use that to run every notebook small.
"""

from __future__ import annotations

import argparse
import contextlib
import io
from pathlib import Path


def execute(path: Path, out: Path, sizes: dict[str, float] | None = None) -> Path:
    """Run all cells in one namespace; a mistake in a cell is raised as it is."""
    import jupytext
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    out.mkdir(parents=True, exist_ok=True)
    names: dict = {"__name__": "__notebook__"}
    parts, pictures, first = [], 0, True
    for cell in jupytext.read(path, fmt="py:percent").cells:
        if cell.cell_type != "code":
            parts.append(cell.source)
            continue
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(cell.source, str(path), "exec"), names)
        if first:
            unknown = sorted(set(sizes or {}) - set(names))
            if unknown:
                raise ValueError(f"{path.name} has no size {', '.join(unknown)} in its first cell.")
            names.update(sizes or {})
            first = False
        parts.append(f"```python\n{cell.source}\n```")
        if printed.getvalue():
            parts.append(f"```\n{printed.getvalue().rstrip()}\n```")
        for number in plt.get_fignums():
            pictures += 1
            name = f"{path.stem}-{pictures}.png"
            plt.figure(number).savefig(out / name, dpi=80)
            plt.close(number)
            parts.append(f"![{name}]({name})")
    target = out / f"{path.stem}.md"
    target.write_text("\n\n".join(parts) + "\n")
    return target


def main() -> None:
    parser = argparse.ArgumentParser(description="Execute notebooks and save their outputs.")
    parser.add_argument("notebook", type=Path)
    parser.add_argument("sizes", nargs="*", metavar="NAME=VALUE")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "outputs")
    options = parser.parse_args()
    number = lambda text: float(text) if "." in text else int(text)
    sizes = {name: number(value) for name, _, value in (item.partition("=") for item in options.sizes)}
    print(execute(options.notebook, options.out, sizes))


if __name__ == "__main__":
    main()
