"""The table of `entjax compile`: what every program needs and moves, the times that the chip allows, and the verdict."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from entjax.aot.chips import CHIPS, Chip
from entjax.aot.flops import Work
from entjax.aot.programs import USABLE, Plan, Report
from entjax.models import DecoderConfig

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
    """A sentence for every program that does not fit into the chip's memory, and for sampling beside the trainer's state."""
    limit = USABLE * plan.chip.hbm / plan.chip.devices
    usable = f"of the {limit / GB:.1f} GB of a device that can be used"
    said = []
    for r in reports:
        if r.fault:
            said.append(f"{r.program} does not fit: {r.fault}")
        elif r.needed > limit:
            said.append(f"{r.program} needs {r.needed / GB:.1f} {usable}.")
    both = resident(reports, plan)
    if not said and both is not None and both > limit:
        said.append(
            f"sampling beside the trainer's state needs {both / GB:.1f} {usable}: lower sampler_rows, or cut the "
            "sampler's weights (sampler_sharding) along an axis."
        )
    return said


def resident(reports: Sequence[Report], plan: Plan) -> float | None:
    """Bytes of a device while the sampler gets its weights and runs, beside the trainer's state, which stays. None if a
    program is missing. The trainer's weights count once, where the sampler reads them too."""
    needed = {r.program: r.needed for r in reports if not r.fault}
    if not {"update", "decode"} <= needed.keys():
        return None
    state = next(r.arguments for r in reports if r.program == "update")
    own = plan.config.sampler_sharding is not None
    if own and "reshard" in needed:
        needed["reshard"] -= plan.weights_of_device
    shared = 0 if own else plan.weights_of_device
    return state + max(needed.get(name, 0) for name in ("reshard", "prefill", "decode")) - shared


def while_sampling(reports: Sequence[Report], plan: Plan) -> str:
    """The same as a line of the table."""
    size = resident(reports, plan)
    have = plan.chip.hbm / plan.chip.devices
    return "" if size is None else (
        f"while sampling: the trainer's state and the sampler together {size / GB:.1f} GB of {have / GB:.0f} GB"
    )  # fmt: skip


def padded_pieces(plan: Plan) -> str:
    """Weights whose pieces do not fill whole tiles are gathered as a sum over zeros, which sends everything twice."""
    layout, width = plan.layout, plan.architecture.width
    cut = layout.spec(("embed",), (width,))[0]
    parts = math.prod(layout.mesh.shape[name] for name in ((cut,) if isinstance(cut, str) else cut or ()))
    if whole_tiles(width, parts):
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
        _row("program", "CPU time", "arguments", "temporary", "peak", "of HBM", "traffic", "sent")
        + "   collectives"
    )
    for r in reports:
        if r.fault:
            yield f"{r.program:9}{r.cpu:10.0f} s  {r.fault}"
            continue
        share = f"{r.needed / (c.hbm / c.devices):.0%}"
        sizes = (r.arguments, r.temporaries, r.peak)
        moved = (r.traffic, sum(r.collectives.values()))
        kinds = ", ".join(
            f"{kind} {size / GB:.2f}" for kind, size in sorted(r.collectives.items(), key=lambda x: -x[1])
        )
        yield (
            _row(r.program, f"{r.cpu:.0f} s", *map(_size, sizes), share, *map(_size, moved))
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
    yield from filter(None, (while_sampling(reports, plan), padded_pieces(plan)))


def _row(first: str, *cells: str) -> str:
    return f"{first:9}" + "".join(f"{cell:>12}" for cell in cells)


def _size(size: float) -> str:
    return f"{size / GB:.2f} GB"


def _whole_step(plan: Plan, reports: Sequence[Report]) -> Iterator[str]:
    """One line on an RL step at best: weights to the sampler, prefill, every token of every wave of rows, scoring, update."""
    best = whole_step(plan, reports)
    if best is None:
        return
    total = sum(best.values())
    shares = ", ".join(f"{name} {value / total:.0%}" for name, value in best.items())
    yield ""
    yield f"one step at best, every row at full length: {_seconds(total)} ({shares})"


def whole_step(plan: Plan, reports: Sequence[Report]) -> dict[str, float] | None:
    """Seconds at best of the parts of an RL step, every row sampled to its full length; None if a program is missing."""
    best = {r.program: times(r, plan.chip, plan.chips).best for r in reports if not r.fault}
    if not set(plan.wanted) <= best.keys():
        return None
    waves = -(-plan.sizes.rows // plan.sizes.at_once)
    rollout = best.get("reshard", 0.0) + best["prefill"] + waves * plan.sizes.new * best["decode"]
    return {"rollout": rollout, "scoring": best.get("score", 0.0), "update": best["update"]}


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


def meshes(devices: int, rows: int, sizes: DecoderConfig) -> list[dict[str, int]]:
    """Mesh shapes worth trying: fsdp times tensor, tensor no larger than cuts key heads evenly, rows that divide. Where so much
    fsdp cuts the width into pieces that fill no tile, also less of it and the rest as replica."""
    found = []
    for tensor in (1, 2, 4, 8):
        shards = devices // tensor
        if devices % tensor or sizes.kv_heads % tensor or rows % shards:
            continue
        most = max(n for n in range(1, shards + 1) if shards % n == 0 and whole_tiles(sizes.width, n))
        for fsdp in sorted({shards, most}, reverse=True):
            mesh = {"replica": shards // fsdp, "fsdp": fsdp, "tensor": tensor}
            found.append({name: size for name, size in mesh.items() if size > 1 or name == "fsdp"})
    return found


def whole_tiles(width: int, parts: int) -> bool:
    return parts == 1 or (width % parts == 0 and width // parts % TILE == 0)


def candidates(devices: int, rows: int, sizes: DecoderConfig) -> list[tuple[dict[str, int], str]]:
    """(mesh, remat policy) pairs of a sweep."""
    return list(itertools.product(meshes(devices, rows, sizes), ("full", "dots")))


def row_of(plan: Plan, report: Report) -> str:
    """One line of a sweep."""
    shape = ",".join(f"{name}:{size}" for name, size in plan.layout.mesh.shape.items())
    head = f"{shape:32}{plan.architecture.remat:7}"
    if report.fault or not fits([report], plan):
        return f"{head}{'-':>10}   {(faults([report], plan) or [report.fault])[0]}"
    t = times(report, plan.chip, plan.chips)
    best = mfu(report, plan.chip, plan.chips)
    return f"{head}{_seconds(t.best):>10}   limit {t.limit}, MFU {best:.0%}, {_size(report.needed)}"


def summary(plan: Plan, reports: Sequence[Report]) -> dict[str, Any]:
    """The table as JSON values."""
    return {
        "chip": plan.chip.name, "chips": plan.chips, "mesh": dict(plan.layout.mesh.shape), "sizes": plan.sizes._asdict(),
        "remat": plan.architecture.remat, "faults": faults(reports, plan), "while_sampling": resident(reports, plan),
        "step": whole_step(plan, reports),
        "programs": [
            {**r._asdict(), "work": r.work._asdict(), "needed": r.needed,
             "times": {} if r.fault else times(r, plan.chip, plan.chips)._asdict(),
             "mfu": None if r.fault else mfu(r, plan.chip, plan.chips)}
            for r in reports
        ],
    }  # fmt: skip


def reports_of(table: dict[str, Any]) -> list[Report]:
    """The reports that a summary was made from."""
    kept = [{name: one[name] for name in Report._fields} for one in table["programs"]]
    return [Report(**{**one, "work": Work(**one["work"])}) for one in kept]
