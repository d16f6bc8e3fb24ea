"""The table of `entjax compile`: what every program needs and moves, the times that the chip allows, and the verdict."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from entjax.aot.chips import CHIPS, Chip
from entjax.aot.programs import USABLE, Plan, Report

GB = 1e9
TILE = 16  # rows of a tile of bfloat16 on a TPU


class Times(NamedTuple):
    """Lower bounds in seconds: arithmetic, memory and links each at the published ceiling, overlapping perfectly."""

    arithmetic: float
    memory: float
    links: float

    @property
    def best(self) -> float:
        return max(self)

    @property
    def limit(self) -> str:
        return max(zip(self, self._fields, strict=True))[1]


def times(report: Report, chip: Chip, chips: int) -> Times:
    """What the ceilings of a chip allow; figures of a device are those of its share of the chip."""
    sent = sum(report.collectives.values())
    return Times(
        report.work.hardware / chips / chip.flops,
        report.traffic * chip.devices / chip.bandwidth,
        sent * chip.devices / chip.links,
    )


def mfu(report: Report, chip: Chip, chips: int) -> float:
    """The best model FLOPs utilisation to hope for."""
    return report.work.model / chips / chip.flops / times(report, chip, chips).best


def fits(reports: Sequence[Report], plan: Plan) -> bool:
    return not faults(reports, plan)


def faults(reports: Sequence[Report], plan: Plan) -> list[str]:
    """A sentence for every program that does not fit into the chip's memory."""
    have = plan.chip.hbm / plan.chip.devices
    said = []
    for r in reports:
        if r.fault:
            said.append(f"{r.program} does not fit: {r.fault}")
        elif r.needed > USABLE * have:
            said.append(
                f"{r.program} needs {r.needed / GB:.1f} of the {USABLE * have / GB:.1f} GB of a device that can be used."
            )
    return said


def resident(reports: Sequence[Report], plan: Plan) -> str:
    """The trainer's state stays in memory while the sampler runs: the sum that the table's rows do not show."""
    by_name = {r.program: r for r in reports if not r.fault}
    if not {"update", "decode"} <= by_name.keys():
        return ""
    both = by_name["update"].arguments + by_name["decode"].needed
    have = plan.chip.hbm / plan.chip.devices
    verdict = "fits" if both <= USABLE * have else "does not fit"
    return f"while sampling: the trainer's state and the sampler together {both / GB:.1f} GB of {have / GB:.0f} GB: {verdict}"


def padded_pieces(plan: Plan) -> str:
    """Weights whose pieces do not fill whole tiles are gathered as a sum over zeros, which sends everything twice."""
    layout, width = plan.layout, plan.architecture.width
    cut = layout.spec(("embed",), (width,))[0]
    parts = math.prod(layout.mesh.shape[name] for name in ((cut,) if isinstance(cut, str) else cut or ()))
    if parts == 1 or width // parts % TILE == 0:
        return ""
    return (
        f"hint: the width of {width} in {parts} pieces of {width // parts} is no multiple of {TILE}: the compiler then gathers "
        f"weights by sums over zeros, at twice the bytes: fewer pieces on fsdp, with the other devices on replica, send less."
    )


def lines(plan: Plan, reports: Sequence[Report]) -> Iterator[str]:
    """The table, as text."""
    c, s, mesh = plan.chip, plan.sizes, plan.layout.mesh
    shape = " x ".join(f"{name} {size}" for name, size in mesh.shape.items())
    yield (
        f"{plan.chips} {c.name} chips, mesh {shape}; {s.prompts} prompts x {s.rows // s.prompts} samples, "
        f"{s.prompt} + {s.new} tokens (rows of {s.length}), remat {plan.architecture.remat}"
    )
    yield ""
    yield (
        _row("program", "compile", "arguments", "temporary", "peak", "of HBM", "traffic", "sent")
        + "   collectives"
    )
    for r in reports:
        if r.fault:
            yield f"{r.program:9}{r.seconds:10.0f} s  {r.fault}"
            continue
        share = f"{r.needed / (c.hbm / c.devices):.0%}"
        sizes = (r.arguments, r.temporaries, r.peak)
        moved = (r.traffic, sum(r.collectives.values()))
        kinds = ", ".join(
            f"{kind} {size / GB:.2f}" for kind, size in sorted(r.collectives.items(), key=lambda x: -x[1])
        )
        yield (
            _row(r.program, f"{r.seconds:.0f} s", *map(_size, sizes), share, *map(_size, moved))
            + f"   {kinds or 'none'}"
        )
    yield ""
    yield "the time that published ceilings allow, at best (decode: one token of every row)"
    yield _row("program", "arithmetic", "memory", "links", "limit", "best MFU")
    for r in reports:
        if not r.fault:
            t = times(r, c, plan.chips)
            yield _row(r.program, *map(_seconds, t), t.limit, f"{mfu(r, c, plan.chips):.0%}")
    yield from _whole_step(plan, reports)
    yield from filter(None, (resident(reports, plan), padded_pieces(plan)))


def _row(first: str, *cells: str) -> str:
    return f"{first:9}" + "".join(f"{cell:>12}" for cell in cells)


def _size(size: float) -> str:
    return f"{size / GB:.2f} GB"


def _whole_step(plan: Plan, reports: Sequence[Report]) -> Iterator[str]:
    """One RL step at best: prefill, every token of every wave of rows, scoring, update."""
    best = {r.program: times(r, plan.chip, plan.chips).best for r in reports if not r.fault}
    if not {"update", "score", "prefill", "decode"} <= best.keys():
        return
    waves = -(-plan.sizes.rows // plan.sizes.at_once)
    rollout = best["prefill"] + waves * plan.sizes.new * best["decode"]
    total = rollout + best["score"] + best["update"]
    yield ""
    yield (
        f"one step at best, every row at full length: {_seconds(total)} "
        f"(rollout {rollout / total:.0%}, scoring {best['score'] / total:.0%}, update {best['update'] / total:.0%})"
    )


def other_chips(reports: Sequence[Report], chips: int) -> Iterator[str]:
    """The same programs against the ceilings of every chip: what another generation would allow."""
    yield (
        f"{'chip':8}"
        + "".join(f"{r.program:>11}" for r in reports if not r.fault)
        + "   (best times, as many chips)"
    )
    for chip in CHIPS.values():
        row = "".join(
            f"{_seconds(times(r, chip._replace(devices=1), chips).best):>11}" for r in reports if not r.fault
        )
        yield f"{chip.name:8}{row}"


def _seconds(value: float) -> str:
    return (
        f"{value:.2f} s"
        if value >= 1
        else f"{value * 1e3:.1f} ms"
        if value >= 1e-3
        else f"{value * 1e6:.0f} us"
    )


def meshes(devices: int, rows: int, kv_heads: int) -> list[dict[str, int]]:
    """Mesh shapes worth trying: fsdp times tensor, tensor no larger than cuts key heads evenly, rows that divide."""
    found = []
    for tensor in (1, 2, 4, 8):
        fsdp = devices // tensor
        if devices % tensor == 0 and kv_heads % tensor == 0 and rows % fsdp == 0:
            found.append({"fsdp": fsdp, "tensor": tensor} if tensor > 1 else {"fsdp": fsdp})
    return found


def candidates(devices: int, rows: int, kv_heads: int) -> list[tuple[dict[str, int], str]]:
    """(mesh, remat policy) pairs of a sweep, the most likely first."""
    return list(itertools.product(meshes(devices, rows, kv_heads), ("full", "dots")))


def row_of(plan: Plan, report: Report) -> str:
    """One line of a sweep."""
    shape = ",".join(f"{name}:{size}" for name, size in plan.layout.mesh.shape.items())
    head = f"{shape:24}{plan.architecture.remat:7}"
    if report.fault or not fits([report], plan):
        return f"{head}{'-':>10}   {(faults([report], plan) or [report.fault])[0]}"
    t = times(report, plan.chip, plan.chips)
    best = mfu(report, plan.chip, plan.chips)
    return f"{head}{_seconds(t.best):>10}   limit {t.limit}, MFU {best:.0%}, {_size(report.needed)}"


def summary(plan: Plan, reports: Sequence[Report]) -> dict[str, Any]:
    """The table as JSON values."""
    return {
        "chip": plan.chip.name, "chips": plan.chips, "mesh": dict(plan.layout.mesh.shape), "sizes": plan.sizes._asdict(),
        "remat": plan.architecture.remat, "faults": faults(reports, plan),
        "programs": [
            {**r._asdict(), "work": r.work._asdict(), "needed": r.needed,
             "times": {} if r.fault else times(r, plan.chip, plan.chips)._asdict(),
             "mfu": None if r.fault else mfu(r, plan.chip, plan.chips)}
            for r in reports
        ],
    }  # fmt: skip
