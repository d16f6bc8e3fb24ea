"""`entjax compile`: one plan or a sweep, printed as it comes; exit code 2 when something does not fit."""

from __future__ import annotations

import json
import sys
from typing import Any

from entjax.aot import programs, report
from entjax.aot.chips import chip_of
from entjax.aot.programs import Plan, Report
from entjax.config import Config, ConfigError, load_config, parse_overrides
from entjax.sharding import MeshError


def run(options: Any) -> int:
    """The command; `options` as the command line parsed them."""
    chip_of(options.topology)
    changes = parse_overrides(options.override) | ({"mesh": options.mesh} if options.mesh else {})
    config = load_config(options.config).override(changes)
    wanted = [name for name in options.programs.split(",") if name]
    if set(wanted) - set(programs.PROGRAMS):
        raise ConfigError(f"--programs {options.programs}: choose from {', '.join(programs.PROGRAMS)}.")
    if options.sweep:
        return _sweep(config, options.topology, options.prompt_tokens)
    plan = programs.plan(config, options.topology, prompt=options.prompt_tokens)
    reports = []
    for name in wanted or plan.wanted:
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
    """Compile the update step for every candidate; recommend the one with the lowest bound beside which the sampler fits."""
    rows = config.rows // (config.minibatches * config.microbatches)
    devices = len(programs.topology_devices(topology))
    sizes = programs.sizes_of(config)
    found: list[tuple[float, int, Plan, Report]] = []
    print(f"{'mesh':32}{'remat':7}{'at best':>10}")
    for number, (mesh, remat) in enumerate(report.candidates(devices, rows, sizes)):
        try:
            plan = programs.plan(config, topology, prompt=prompt, mesh=mesh, remat=remat)
        except MeshError as error:
            print(f"{mesh}: {error}")
            continue
        one = programs.compile_program(plan, "update")
        print(report.row_of(plan, one), flush=True)
        if report.fits([one], plan):
            found.append((report.times(one, plan.chip, plan.chips).best, number, plan, one))
    for _, _, plan, update in sorted(found, key=lambda x: x[:2]):
        wrong = report.faults([update, programs.compile_program(plan, "decode")], plan)
        words = ",".join(f"{name}:{size}" for name, size in plan.layout.mesh.shape.items())
        if not wrong:
            print(f"\nrecommended: mesh={words}, remat={plan.architecture.remat}")
            return 0
        print(f"{words} is passed over: {wrong[0]}")
    print("entjax: nothing fits: raise microbatches, lower chunk, or take a larger slice.", file=sys.stderr)
    return 2
