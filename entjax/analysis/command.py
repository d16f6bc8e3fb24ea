"""`entjax analyze WORKDIR`: what a run directory, finished or running, says about entropy. Tables, sentences and pictures.

    analysis/report.md  analysis/report.json  analysis/*.png

The curves come from metrics.jsonl; what looks at the policy loads checkpoints: the oldest one that is left (or the weights that
the run began with) is called the base, the newest one the tuned policy. What cannot be said is said to be missing, and why.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from entjax import setup
from entjax.analysis import curves, policies
from entjax.checkpoint import CheckpointFault, Checkpoints
from entjax.held_out import kept_back
from entjax.log import read_lines
from entjax.setup import Parts


class Section(NamedTuple):
    """A part of the report: its title, its numbers for the JSON, its text, a picture's file name if it has drawn one."""

    title: str
    numbers: dict[str, Any]
    text: str
    picture: str = ""


class Run(NamedTuple):
    """A run directory opened for analysis."""

    workdir: Path
    out: Path
    lines: list[dict[str, Any]]
    parts: Parts
    base: Any  # parameters
    tuned: Any
    remembered: tuple[dict, dict]  # the states of the tuned policy's transforms, and their knobs
    base_is: str  # what the base is, in words
    tuned_is: str


def analyze(
    workdir: Path,
    *,
    prompts: int,
    samples: int,
    updates: int,
    cross: bool,
    report: Callable[[str], None],
    overrides: Sequence[str] = (),
) -> Path:
    """Write the report of a run directory and return its path; `overrides`: key=value changes of its config."""
    if not (workdir / "metrics.jsonl").is_file():
        raise ValueError(
            f"{workdir} is not a run directory: it has no metrics.jsonl. Give the --workdir of an `entjax train`."
        )
    out = workdir / "analysis"
    out.mkdir(exist_ok=True)
    lines = read_lines(workdir / "metrics.jsonl")
    sections = [Section(*part) for part in _attempt(curves.sections, lines, out)]
    run, missing = open_run(workdir, out, lines, prompts, samples, overrides)
    if run is None:
        sections.append(Section("What needs checkpoints", {}, missing))
    else:
        with contextlib.closing(run.parts):
            for part in policies.parts(updates=updates, cross=cross):
                report(part.__name__.replace("_", " "))
                sections += [Section(*found) for found in _attempt(part, run)]
    numbers = {section.title: section.numbers for section in sections}
    (out / "report.json").write_text(json.dumps(numbers, indent=1, default=float) + "\n")
    head = f"# Analysis of {workdir.name}\n\n" + (
        f"Base: {run.base_is}. Tuned: {run.tuned_is}.\n\n" if run else ""
    )
    body = "\n\n".join(
        f"## {s.title}\n\n{s.text}" + (f"\n\n![{s.title}]({s.picture})" if s.picture else "")
        for s in sections
    )
    (out / "report.md").write_text(head + body + "\n")
    return out / "report.md"


def _attempt(part: Callable, *arguments: Any) -> list[tuple]:
    """The sections of a part; a sentence instead where it cannot be made."""
    try:
        return part(*arguments)
    except Exception as error:  # the other parts are worth having
        return [
            (part.__name__.replace("_", " ").capitalize(), {}, f"Not made: {error or type(error).__name__}")
        ]


def open_run(
    workdir: Path, out: Path, lines: list, prompts: int, samples: int, overrides: Sequence[str] = ()
) -> tuple[Run | None, str]:
    """The run with its two policies, or a sentence that says why there are none."""
    if not (workdir / "config.py").is_file():
        return (
            None,
            f"{workdir.name} has no config.py, so its policy cannot be built: only metrics.jsonl was looked at.",
        )
    steps = Checkpoints(workdir.absolute() / "checkpoints", keep=1_000_000)
    try:
        config = setup.config_of(workdir, overrides)
        kept = kept_back(config)
        config = dataclasses.replace(
            config,
            eval_prompts=prompts if kept is None else min(prompts, kept),
            eval_samples=samples,
            eval_k=(1,),
            minibatches=1,
        )
        parts = setup.build(config)
        try:
            return Run(workdir, out, lines, parts, *_policies(parts, steps)), ""
        except CheckpointFault as fault:
            parts.close()
            return None, str(fault)
    finally:
        steps.close()


def _policies(parts: Parts, steps: Checkpoints) -> tuple:
    """(base, tuned, what the tuned one remembers, what the base is, what the tuned one is)."""
    state = parts.newest(steps)
    oldest, newest = steps.steps()[0], int(state.step)
    if oldest == 0 and newest > 0:
        base, words = parts.restore(steps, 0).params, "the checkpoint of step 0"
    elif not parts.config.sft_steps:
        base, words = parts.first_weights(), "the weights that the run began with"
    elif oldest < newest:
        base, words = parts.restore(steps, oldest).params, f"the oldest checkpoint left, step {oldest}"
    else:
        raise CheckpointFault(
            f"Only the checkpoint of step {newest} is left, and the run began with its own warm start: nothing to compare "
            "with. Set keep=1000 in the config to keep all checkpoints."
        )
    remembered = state.signal_state, state.knobs
    return base, state.params, remembered, words, f"the checkpoint of step {newest}"
