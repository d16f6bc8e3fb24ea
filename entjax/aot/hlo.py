"""What a compiled program moves: collectives and memory traffic read from its text, every loop body times its trip count.

XLA's own cost analysis counts the body of a loop once, which for a model scanned over its layers is many times too little. Here
a computation counts as often as it runs: the product of the trip counts of the loops around it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

BYTES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8,
         "f64": 8, "s4": 1, "u4": 1, "f8e4m3fn": 1, "f8e5m2": 1}  # fmt: skip
COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
FREE = {"parameter", "constant", "get-tuple-element", "tuple", "bitcast", "while", "conditional", "call", "after-all", "iota",
        "partition-id", "replica-id", "optimization-barrier"}  # fmt: skip
SCATTERED = "all-reduce-scatter"  # the name of a fusion that sums and keeps a piece, which a TPU does as one reduce-scatter
IN_PLACE = ("bitcast", "reshape")  # the same memory under another shape
VMEM = "S(1)"  # arrays that live on the chip and cost no traffic

_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([^\s(]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%([^\s=]+) = (.*)$")
_SHAPE = re.compile(r"(\w+)\[([\d,]*)\](\{[^{}]*\})?")
_OPCODE = re.compile(r"\s([a-z][\w-]*)\(")
_CALLS = "calls|to_apply|body|branch_computations|true_computation|false_computation|called_computations"
_CALLED = re.compile(rf"(?:{_CALLS})=\{{?(%[^,}}\s]+(?:, %[^,}}\s]+)*)\}}?")


class Instruction(NamedTuple):
    name: str
    shape: str  # the text of its result's shape
    opcode: str
    operands: tuple[str, ...]
    rest: str  # attributes; of a constant or parameter first its "(value)"


class Program(NamedTuple):
    """The computations of a module, and how often each of them runs."""

    computations: Mapping[str, tuple[Instruction, ...]]
    times: Mapping[str, float]


class Collective(NamedTuple):
    """One collective of the program: how often, over how many devices, and the bytes that a device sends for it each time."""

    kind: str
    times: float
    group: int
    bytes: float
    where: str

    @property
    def total(self) -> float:
        return self.times * self.bytes


def parse(text: str, *, open_loops: int = 1, branches: float = 1.0) -> Program:
    """Read a compiled module's text. A loop without a constant end counts as `open_loops` runs of its body, and every branch
    of a conditional as `branches` of a run."""
    computations: dict[str, list[Instruction]] = {}
    entry, here = "", None
    for line in text.splitlines():
        header = _COMPUTATION.match(line)
        if header:
            here = computations.setdefault(header[1], [])
            entry = header[1] if line.startswith("ENTRY") else entry
        elif line.startswith("}"):
            here = None
        elif here is not None and (found := _INSTRUCTION.match(line)):
            here.append(_instruction(found[1], found[2]))
    frozen = {name: tuple(body) for name, body in computations.items()}
    return Program(frozen, _times(frozen, entry, open_loops, branches))


def _instruction(name: str, text: str) -> Instruction:
    opcode = _OPCODE.search(text)
    inside = text[opcode.end() :]
    depth, end = 1, len(inside)
    for i, c in enumerate(inside):
        depth += (c in "({[") - (c in ")}]")
        if depth == 0:
            end = i
            break
    operands = tuple(re.findall(r"%([^\s,()]+)", inside[:end]))
    literal = f"({inside[:end]})" if opcode[1] in ("constant", "parameter") else ""
    return Instruction(name, text[: opcode.start()], opcode[1], operands, literal + inside[end + 1 :])


def _times(
    computations: Mapping[str, tuple[Instruction, ...]], entry: str, open_loops: int, branches: float
) -> dict[str, float]:
    times: dict[str, float] = {}

    def visit(name: str, count: float) -> None:
        times[name] = times.get(name, 0) + count
        for instruction in computations.get(name, ()):
            inner = count
            if instruction.opcode == "while":
                inner *= _trips(computations, instruction) or open_loops
            elif instruction.opcode == "conditional":
                inner *= branches
            for called in _called(instruction):
                visit(called, inner)

    visit(entry, 1)
    return times


def _trips(computations: Mapping[str, tuple[Instruction, ...]], loop: Instruction) -> int:
    """How often a loop runs that counts from 0 in equal steps up to a constant; 0 for any other."""
    known = re.search(r'known_trip_count"?:\{"n":"(\d+)"', loop.rest)
    if known:
        return int(known[1])
    condition = computations.get(re.search(r"condition=%([^,\s]+)", loop.rest)[1], ())
    body = computations.get(re.search(r"body=%([^,\s]+)", loop.rest)[1], ())
    if not condition or condition[-1].opcode != "compare" or "direction=LT" not in condition[-1].rest:
        return 0
    compared = {i.name: i for i in condition}
    counter, limit = (compared.get(name) for name in condition[-1].operands)
    index = (
        re.search(r"index=(\d+)", counter.rest) if counter and counter.opcode == "get-tuple-element" else None
    )
    if index is None or limit is None or limit.opcode != "constant":
        return 0
    return math.ceil(_constant(limit) / _step(body, int(index[1])))


def _step(body: tuple[Instruction, ...], index: int) -> int:
    """By how much the loop's counter grows in one run of the body."""
    found = {i.name: i for i in body}
    new = found.get(body[-1].operands[index]) if body and index < len(body[-1].operands) else None
    if new is None or new.opcode != "add":
        return 1
    steps = [
        _constant(found[name]) for name in new.operands if name in found and found[name].opcode == "constant"
    ]
    return max(1, steps[0]) if steps else 1


def _constant(instruction: Instruction) -> int:
    """The value of an integer constant."""
    value = re.match(r"\((\d+)\)", instruction.rest)
    return int(value[1]) if value else 1


def shape_bytes(shape: str, *, on_chip: bool = True) -> int:
    """The bytes of a shape's arrays; without those in the chip's own memory if `on_chip` is False."""
    total = 0
    for kind, sizes, layout in _SHAPE.findall(shape):
        if kind in BYTES and (on_chip or VMEM not in layout):
            total += BYTES[kind] * math.prod(int(n) for n in sizes.split(",") if n)
    return total


# Collectives -----------------------------------------------------------------------------------------------------------------


def collectives(program: Program, devices: int) -> list[Collective]:
    """Every collective once, the largest first. Fusions hold copies of one collective; its channel tells them apart."""
    found: dict[str, Collective] = {}
    for name, body in program.computations.items():
        for i in body:
            kind = i.opcode.removesuffix("-start")
            if kind not in COLLECTIVES or not program.times.get(name):
                continue
            channel = re.search(r"channel_id=(\d+)", i.rest)
            where = re.search(r'op_name="([^"]*)"', i.rest)
            group = _group(i.rest, devices)
            sent = _sent(kind, i, group)
            if kind == "all-reduce" and name.startswith(SCATTERED):
                kind, sent = "reduce-scatter", sent / 2
            one = Collective(kind, program.times[name], group, sent, where[1] if where else "")
            key = channel[1] if channel else i.name
            if key not in found or one.total > found[key].total:
                found[key] = one
    return sorted(found.values(), key=lambda c: -c.total)


def _group(rest: str, devices: int) -> int:
    """How many devices take part in one instance of a collective."""
    mesh = re.search(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(.*?\))? \{([^}]*)\}", rest)
    if mesh:  # axes, of which some are cut further: 'axis_0':(2)4 is a part of four
        sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", mesh[1])}
        used = re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", mesh[2])
        return math.prod(int(part) if part else sizes.get(name, 1) for name, part in used)
    iota = re.search(r"replica_groups=\[(\d+),(\d+)\]<=", rest)
    if iota:
        return int(iota[2])
    listed = re.search(r"replica_groups=\{\{([\d,]+)\}", rest)
    return len(listed[1].split(",")) if listed else devices


def _sent(kind: str, i: Instruction, group: int) -> float:
    """Bytes that one device sends: a ring passes every piece on once, a sum goes around twice."""
    parts = [shape_bytes(f"{kind}[{sizes}]") for kind, sizes, _ in _SHAPE.findall(i.shape) if kind in BYTES]
    large, share = max(parts, default=0), (group - 1) / max(group, 1)
    if kind == "collective-permute":
        return large
    if kind == "reduce-scatter":  # its result is one piece
        return large * (group - 1)
    whole = sum(parts) if kind == "all-reduce" or not i.opcode.endswith("-start") else large
    return whole * share * (2 if kind == "all-reduce" else 1)


# Memory traffic ----------------------------------------------------------------------------------------------------------------


def traffic(program: Program) -> float:
    """Bytes read from and written to HBM: the operands and results of every instruction that runs, slices at their own size."""
    inside = {
        called
        for body in program.computations.values()
        for i in body
        if i.opcode == "fusion"
        for called in _called(i)
    }
    total = 0
    for name, body in program.computations.items():
        if name in inside or not program.times.get(name):
            continue
        shapes = {i.name: i.shape for i in body}
        total += program.times[name] * sum(_moved(program, i, shapes) for i in body)
    return total


def _called(i: Instruction) -> Iterator[str]:
    for group in _CALLED.findall(i.rest):
        yield from (name.removeprefix("%") for name in group.split(", "))


def _moved(program: Program, i: Instruction, shapes: Mapping[str, str]) -> int:
    if i.opcode in FREE or i.opcode.endswith("-done"):
        return 0
    size = lambda shape: shape_bytes(shape, on_chip=False)
    operands = [size(shapes.get(name, "")) for name in i.operands]
    if i.opcode in ("dynamic-slice", "slice", "gather"):
        return 2 * size(i.shape)
    if i.opcode == "dynamic-update-slice":
        return 2 * operands[1]
    if i.opcode.endswith("-start"):  # its result also names its operand
        return max(operands, default=0) + max(size(i.shape) - max(operands, default=0), 0)
    out = size(i.shape)
    if i.opcode == "fusion":
        body = program.computations.get(next(_called(i), ""), ())
        operands = [_read(program, body, number, whole) for number, whole in enumerate(operands)]
        out = min(out, _written(body, out))
    return out + sum(operands)


def _read(program: Program, body: tuple[Instruction, ...], number: int, whole: int) -> int:
    """What a fusion reads of an operand: only slices of it, if nothing else in it uses the operand."""
    mine = next((i.name for i in body if i.opcode == "parameter" and i.rest.startswith(f"({number})")), "")
    return min(whole, _used(program, body, mine, whole))


def _used(
    program: Program, body: tuple[Instruction, ...], name: str, whole: int, *, copied: bool = False
) -> int:
    """The same of a value in the fusion; `copied`: it is not the operand's own memory, which could be updated in place."""
    if name == body[-1].name:
        return whole
    total = 0
    for i in body:
        if name not in i.operands:
            continue
        if i.opcode in ("dynamic-slice", "slice", "gather"):
            total += shape_bytes(i.shape)
        elif i.opcode == "dynamic-update-slice" and i.operands[0] == name and not copied:
            continue  # updated in place
        elif _is_view(program, i):  # made where it is looked at
            result = shape_bytes(i.shape)
            again = copied or i.opcode not in IN_PLACE
            total += _used(program, body, i.name, result, copied=again) * whole // max(result, 1)
        elif i.opcode == "fusion":
            inner = program.computations.get(next(_called(i), ""), ())
            total += _read(program, inner, i.operands.index(name), whole)
        else:
            return whole
    return total


def _is_view(program: Program, i: Instruction) -> bool:
    """Is this, inside of a fusion, its operand element by element, in another order or type?"""
    if i.opcode == "fusion":
        body = program.computations.get(next(_called(i), ""), ())
        return len(i.operands) == 1 and all(j.opcode == "parameter" or _is_view(program, j) for j in body)
    return i.opcode in (*IN_PLACE, "copy", "convert", "transpose")


def _written(body: tuple[Instruction, ...], whole: int) -> int:
    """What a fusion writes: the update only, if its result is an updated operand."""
    by_name = {i.name: i for i in body}

    def own(name: str) -> bool:
        """Is this an operand's own memory?"""
        i = by_name.get(name)
        inside = i is not None and i.opcode in (*IN_PLACE, "dynamic-update-slice")
        return i is not None and (i.opcode == "parameter" or (inside and own(i.operands[0])))

    updates = [i for i in body if i.opcode == "dynamic-update-slice"]
    if not updates or not all(own(i.operands[0]) for i in updates):
        return whole
    shapes = {i.name: i.shape for i in body}
    return sum(shape_bytes(shapes.get(i.operands[1], "")) for i in updates)
