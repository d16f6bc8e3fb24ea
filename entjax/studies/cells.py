"""One cell of the study: a run of one arm on one setting from one warm start with one seed, and what is kept of it.

A cell is an ordinary run directory (ROOT/cells/...), so it resumes like one and is locked while somebody works on it. Cells of
the same setting share the sampler's compiled programs, cells of the same arm all of them.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from flax import nnx

from entjax import setup
from entjax.bucket import place_of
from entjax.checkpoint import Checkpoints
from entjax.log import read_lines
from entjax.models import load_hf, save_hf
from entjax.preemption import Notice
from entjax.rundir import RunDirectory, RunDirectoryError
from entjax.setup import Parts
from entjax.studies.grid import Arm, Setting
from entjax.train import Loop, train

COMPILED = 12  # arms whose programs are kept for their next seed


class Size(NamedTuple):
    """The budget of a cell; equal for all that are compared."""

    steps: int = 100
    prompts: int = 16
    samples: int = 16
    lr: float = 2e-4
    eval_prompts: int = 128


class Cell(NamedTuple):
    setting: Setting
    arm_name: str
    arm: Arm
    warm: int
    seed: int

    @property
    def name(self) -> str:
        return f"{self.setting.name}-{self.arm_name}-w{self.warm}-s{self.seed}"


class Study:
    """A folder of cells and warm starts, and the compiled parts that this process has made so far."""

    def __init__(self, root: Path, size: Size):
        self.root, self.size = Path(root), size
        self._parts: dict[tuple[str, str], Parts] = {}
        self._samplers: dict[str, Any] = {}

    def folder(self, cell: Cell) -> Path:
        return self.root / "cells" / cell.name

    def result(self, cell: Cell) -> Path:
        return self.folder(cell) / "result.json"

    def run(self, cell: Cell) -> bool:
        """Make the cell's result; False when another process is at it, or it is there already."""
        if self.result(cell).is_file():
            return False
        model = self.warm_start(cell.setting, cell.warm)
        if model is None:
            return False
        parts = self._assemble(cell, model)
        try:
            with RunDirectory(self.folder(cell), resume=True, files={}) as run, Notice() as notice:
                if self.result(cell).is_file():
                    return False
                Loop(parts, run, notice, place_of(self.folder(cell))).go()
                found = describe(cell, self.size) | outcome(read_lines(run.path / "metrics.jsonl"))
                written = run.path / "result.json.part"
                written.write_text(json.dumps(found))
                written.rename(self.result(cell))
                return True
        except RunDirectoryError:
            return False
        finally:
            parts.close()

    def warm_start(self, setting: Setting, index: int) -> str | None:
        """The folder of a warm start, made when it is missing; None while another process makes it."""
        if index == 0 and setting.shipped:
            return setting.shipped
        folder = self.root / "warm" / f"{setting.name}-{index}"
        if (folder / "config.json").is_file():
            return str(folder)
        config = setting.warm_config(index)
        work = self.root / "warm" / f"{setting.name}-{index}-run"
        try:
            train(config, work, resume=True)
        except RunDirectoryError:
            return None
        parts = setup.build(config)
        checkpoints = Checkpoints(work.absolute() / "checkpoints")
        nnx.update(parts.model, parts.restore(checkpoints, checkpoints.steps()[-1]).params)
        checkpoints.close()
        parts.close()
        written = folder.with_name(f"{folder.name}.{os.getpid()}")
        shutil.rmtree(written, ignore_errors=True)
        save_hf(written, parts.model, alphabet=config.task.alphabet)
        try:
            written.rename(folder)
        except OSError:
            if not (folder / "config.json").is_file():
                raise
            shutil.rmtree(written)  # another process that came when the training was over was here first
        return str(folder)

    def _assemble(self, cell: Cell, model: str) -> Parts:
        """The parts of a cell, with what was compiled for others of its arm and setting."""
        config = dataclasses.replace(
            cell.setting.config(cell.arm, model, **self.size._asdict()), seed=cell.seed
        )
        key = (cell.setting.name, cell.arm_name)
        if key not in self._parts:
            if len(self._parts) >= COMPILED:  # a process may map so many compiled programs and no more
                self._parts.pop(next(iter(self._parts)))
            parts = setup.build(config)
            parts.close()  # every cell has its own
            sampler = self._samplers.setdefault(cell.setting.name, parts.sampler)
            self._parts[key] = parts._replace(sampler=sampler)
        return self._parts[key]._replace(
            config=config, model=load_hf(model), stream=setup.make_stream(config),
            **setup.make_scorers(config), eval_examples=setup.eval_examples(config),
        )  # fmt: skip


def describe(cell: Cell, size: Size) -> dict[str, Any]:
    """What the cell was."""
    about = {"setting": cell.setting.name, "arm": cell.arm_name, "recipe": cell.arm.recipe, "options": dict(cell.arm.options),
             "target": cell.arm.target, "warm": cell.warm, "seed": cell.seed}  # fmt: skip
    return about | size._asdict()


KEPT = ("reward", "entropy", "length", "pass@1", "pass@4", "pass@16", "pass@32", "distinct_correct")


def outcome(lines: list[Mapping[str, Any]]) -> dict[str, Any]:
    """The curves, the evaluations and the times of a run, from its metrics."""
    steps = [line for line in lines if "entropy/mean" in line]
    tests = [line for line in lines if "eval/pass@1" in line]
    short = lambda x: float(f"{x:.4g}")
    at = lambda line: (
        {"step": line["step"]}
        | {name: short(line[f"eval/{name}"]) for name in KEPT if f"eval/{name}" in line}
    )
    later = steps[3:] or steps  # the first steps compile
    times = {
        what: short(statistics.median(line[f"time/{what}"] for line in later))
        for what in ("rollout", "update")
    }
    return {
        "entropy": [short(line["entropy/mean"]) for line in steps],
        "reward": [short(line["reward/mean"]) for line in steps],
        "evaluations": [at(line) for line in tests],
        "seconds": times,
        "skipped": sum(line.get("update/skipped", 0) for line in steps),
    }
