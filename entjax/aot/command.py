"""`entjax compile`: one plan or a sweep, printed as it comes; exit code 2 when something does not fit."""

from __future__ import annotations

import json
import sys
from typing import Any

from entjax.aot import programs, report
from entjax.aot.chips import chip_of
from entjax.aot.programs import Plan, Report
from entjax.config import Config, ConfigError, load_config, parse_overrides
from entjax.models.known import architecture
from entjax.sharding import MeshError

PROGRAMS = ("update", "score", "prefill", "decode")


def run(options: Any) -> int:
    """The command; `options` as the command line parsed them."""
    chip_of(options.topology)
    changes = parse_overrides(options.override) | ({"mesh": options.mesh} if options.mesh else {})
    config = load_config(options.config).override(changes)
    wanted = [name for name in options.programs.split(",") if name]
    unknown = sorted(set(wanted) - set(PROGRAMS))
    if unknown or not wanted:
        raise ConfigError(f"--programs {options.programs}: choose from {', '.join(PROGRAMS)}.")
    if options.sweep:
        return _sweep(config, options.topology, options.prompt_tokens)
    plan = programs.plan(config, options.topology, prompt=options.prompt_tokens)
    reports = []
    for name in wanted:
        print(f"compiling {name} ...", file=sys.stderr, flush=True)
        reports.append(programs.compile_program(plan, name))
    print("\n".join(report.lines(plan, reports)))
    print()
    print("\n".join(report.other_chips(reports, plan.chips)))
    if options.json:
        options.json.write_text(json.dumps(report.summary(plan, reports), indent=1) + "\n")
    return _verdict(plan, reports)


def _verdict(plan: Plan, reports: list[Report]) -> int:
    wrong = report.faults(reports, plan)
    if not wrong:
        print(
            f"\nfits on {plan.chips} {plan.chip.name} chips. Compiled only: numerics and speed were not run."
        )
        return 0
    for sentence in wrong:
        print(f"entjax: {sentence}", file=sys.stderr)
    print(
        "entjax: refused. Raise microbatches, lower chunk, set remat to full, or take a larger slice.",
        file=sys.stderr,
    )
    return 2


def _sweep(config: Config, topology: str, prompt: int) -> int:
    """Compile the update step for every candidate and recommend the one with the lowest bound."""
    rows = config.prompts * config.samples // (config.minibatches * config.microbatches)
    devices = len(programs.topology_devices(topology))
    sizes = architecture(config.model, **config.model_options)
    best: tuple[float, str] | None = None
    print(f"{'mesh':24}{'remat':7}{'at best':>10}")
    for mesh, remat in report.candidates(devices, rows, sizes.kv_heads):
        try:
            plan = programs.plan(config, topology, prompt=prompt, mesh=mesh, remat=remat)
        except MeshError as error:
            print(f"{mesh}: {error}")
            continue
        one = programs.compile_program(plan, "update")
        print(report.row_of(plan, one), flush=True)
        if report.fits([one], plan):
            words = ",".join(f"{name}:{size}" for name, size in mesh.items())
            found = (report.times(one, plan.chip, plan.chips).best, f"mesh={words}, remat={remat}")
            best = found if best is None else min(best, found)
    if best is None:
        print(
            "entjax: nothing fits: raise microbatches, lower chunk, or take a larger slice.", file=sys.stderr
        )
        return 2
    print(f"\nrecommended: {best[1]}")
    return 0
