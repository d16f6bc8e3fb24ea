"""The study: which method does what? Arms x settings x warm starts x seeds at equal compute, resumable, in parallel.

    python -m entjax.studies.run [--settings easy,hard] [--arms grpo,steer | all] [--seeds 3 | 3:5] [--warm 3] [--minutes 60]

runs the cells that have no result in DOCS/study.json or --root yet, until the minutes are spent (0: none), then adds all results
to that file and writes DOCS/study.md and its pictures from it alone. Start it again to go on, in as many processes as there are
machines that see --root: a cell is locked while it is worked on. Seed s starts from warm start s % warm.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from entjax.studies import grid, page
from entjax.studies.cells import COMPILED, Cell, Size, Study, describe


def parser() -> argparse.ArgumentParser:
    one = argparse.ArgumentParser(prog="python -m entjax.studies.run", description=__doc__.splitlines()[0])
    known = grid.settings()
    one.add_argument("--settings", default="easy", metavar="NAME,...", help=f"of {', '.join(known)} (easy)")
    one.add_argument(
        "--arms", default=",".join(grid.FIRST), metavar="NAME,...", help="recipes, or all (the first nine)"
    )
    one.add_argument(
        "--seeds", type=seeds, default="3", metavar="N | FROM:TO", help="of each arm on each setting (3)"
    )
    one.add_argument("--warm", type=int, default=1, help="warm starts among which the seeds are dealt (1)")
    size = Size()
    one.add_argument("--steps", type=int, default=size.steps, help=f"rollout batches ({size.steps})")
    one.add_argument("--prompts", type=int, default=size.prompts, help=f"prompts a batch ({size.prompts})")
    one.add_argument("--samples", type=int, default=size.samples, help=f"a prompt ({size.samples})")
    one.add_argument("--lr", type=float, default=size.lr, help=f"learning rate ({size.lr:g})")
    one.add_argument(
        "--eval-prompts", type=int, default=size.eval_prompts, help=f"of an evaluation ({size.eval_prompts})"
    )
    one.add_argument(
        "--minutes", type=float, default=1e9, help="start no cell after so many minutes; 0: no runs"
    )
    one.add_argument("--root", type=Path, default=Path("runs/study"), help="where the runs are (runs/study)")
    one.add_argument(
        "--docs", type=Path, default=Path("docs"), help="where study.json and the page go (docs)"
    )
    return one


def plan(options: argparse.Namespace) -> list[Cell]:
    """All cells, of as many arms at a time as stay compiled; of these, the first seed of each comes first."""
    settings = grid.settings()
    _known("setting", options.settings.split(","), settings)
    arms = {name: grid.arms(options.steps, settings[name].target) for name in options.settings.split(",")}
    known = next(iter(arms.values()))
    chosen = sorted(known) if options.arms == "all" else options.arms.split(",")
    _known("arm", chosen, known)
    pairs = [(setting, arm) for setting in arms for arm in chosen]
    return [
        Cell(settings[setting], arm, arms[setting][arm], seed % options.warm, seed)
        for block in range(0, len(pairs), COMPILED)
        for seed in options.seeds
        for setting, arm in pairs[block : block + COMPILED]
    ]


def seeds(text: str) -> range:
    return range(*map(int, text.split(":")))


def _known(what: str, names: Sequence[str], known: dict[str, Any]) -> None:
    missing = [name for name in names if name not in known]
    if missing:
        raise SystemExit(f"There is no {what} {', '.join(missing)}. Known: {', '.join(sorted(known))}.")


def main(arguments: list[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    size = Size(options.steps, options.prompts, options.samples, options.lr, options.eval_prompts)
    study, file, started = Study(options.root, size), options.docs / "study.json", time.monotonic()
    known = {page.identity(result) for result in page.read(file)}
    cells = [cell for cell in plan(options) if page.identity(describe(cell, size)) not in known]
    if options.minutes > 0:
        cache = options.root.absolute() / "xla"
        jax.config.update("jax_compilation_cache_dir", str(cache))
    for number, cell in enumerate(cells, 1):
        if time.monotonic() - started >= 60 * options.minutes:
            break
        begun = time.monotonic()
        try:
            done = study.run(cell)
        except (
            ValueError,
            FloatingPointError,
            ImportError,
        ) as error:  # an arm that cannot run here is said, not hidden
            print(f"[{number}/{len(cells)}] {cell.name}: {error}", flush=True)
            continue
        if done:
            print(f"[{number}/{len(cells)}] {cell.name}: {time.monotonic() - begun:.0f} s", flush=True)
    results = page.collect(options.root, file)
    if not results:
        raise SystemExit(f"No results yet in {options.root}: give the study some --minutes.")
    page.write(results, options.docs)
    print(f"{len(results)} results in {file}, page in {options.docs / 'study.md'}")


if __name__ == "__main__":
    main()
