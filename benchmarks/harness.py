"""Paired measurements: programs that do the same work alternate A B A B in one process, beside a matmul of known cost.

Seconds of a shared machine say little; the ratio of two programs within one round says much, in seconds and in processor
seconds. The first round is dropped (it compiles), the median over the others and its spread (the quartiles) are kept, and the
floor is what the arithmetic alone would take at the matmul speed measured in the same rounds.
"""

from __future__ import annotations

import gc
import json
import os
import platform
import time
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

HEADER = f"{'what':44}{'seconds':>9}{'quartiles':>17}{'over base':>11}{'over floor':>11}  base"
PACKAGES = (
    "entjax",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "numpy",
    "transformers",
    "torch",
    "trl",
    "google-tunix",
)


class Row(NamedTuple):
    """What one benchmark compares: programs by name, the one that the others are divided by, and what is counted."""

    name: str
    counts: str
    shapes: Mapping[str, Any]
    programs: Mapping[str, Callable[[], Any]]
    base: str | None = None
    flops: float = 0.0  # of one run of the work; 0: no floor
    rounds: int = 7
    notes: Mapping[str, Any] = {}  # a callable is asked after the last round


class Timing(NamedTuple):
    seconds: dict[str, list[float]]  # per program, the first round left out
    processor: dict[str, list[float]]  # the same in processor seconds, over all threads
    ceiling: list[float]  # matmul FLOP/s of each round
    processor_ceiling: list[float]  # matmul FLOP per processor second


def ceiling(size: int = 0) -> tuple[float, float]:
    """FLOP of a float32 matmul on this machine, now: per second, and per processor second."""
    size = size or (4096 if jax.default_backend() != "cpu" else 1536)
    a = jnp.ones((size, size), jnp.float32)
    _product(a, a).block_until_ready()
    start, busy = time.perf_counter(), time.process_time()
    _product(a, a).block_until_ready()
    flops = 2.0 * size**3
    return flops / (time.perf_counter() - start), flops / (time.process_time() - busy)


@jax.jit
def _product(a, b):
    return a @ b


def measure(programs: Mapping[str, Callable[[], Any]], rounds: int) -> Timing:
    """Run every program once a round; round 0 is warm-up.

    On a machine that others use too, seconds depend on them; processor seconds depend much less, and both are kept. A program
    that works in another process returns its own as {"processor": seconds}.
    """
    timing = Timing({name: [] for name in programs}, {name: [] for name in programs}, [], [])
    for number in range(rounds + 1):
        speeds = ceiling()
        for name, run in programs.items():
            gc.collect()
            start, busy = time.perf_counter(), time.process_time()
            result = jax.block_until_ready(run())
            taken, worked = time.perf_counter() - start, time.process_time() - busy
            if number:
                elsewhere = result.get("processor") if isinstance(result, dict) else None
                timing.seconds[name].append(taken)
                timing.processor[name].append(worked if elsewhere is None else elsewhere)
        if number:
            timing.ceiling.append(speeds[0])
            timing.processor_ceiling.append(speeds[1])
    return timing


def summarize(row: Row, timing: Timing, load: tuple[float, ...]) -> dict[str, Any]:
    """The JSON of a row: every run, medians, quartiles, paired ratios and the distance from the floor."""
    speed, busy_speed = max(timing.ceiling), max(timing.processor_ceiling)
    programs = {}
    for name, seconds in timing.seconds.items():
        busy = timing.processor[name]
        entry: dict[str, Any] = {
            "seconds": seconds,
            **quartiles(seconds),
            "processor": {"seconds": busy, **quartiles(busy)},
        }
        if row.base is not None and name != row.base:
            entry["over_base"] = quartiles(np.divide(seconds, timing.seconds[row.base]))
            entry["processor"]["over_base"] = quartiles(np.divide(busy, timing.processor[row.base]))
        if row.flops:
            entry["over_floor"] = entry["median"] / (row.flops / speed)
            entry["processor"]["over_floor"] = entry["processor"]["median"] / (row.flops / busy_speed)
            entry["flops_per_second"] = row.flops / entry["median"]
        programs[name] = entry
    return {
        "name": row.name, "counts": row.counts, "shapes": dict(row.shapes), "base": row.base, "flops": row.flops,
        "floor_seconds": row.flops / speed if row.flops else None,
        "matmul_flops_per_second": {"best": speed, **quartiles(timing.ceiling), "per_processor_second": busy_speed},
        "programs": programs, "notes": {name: x() if callable(x) else x for name, x in row.notes.items()},
        "load_average": {"before": load[0], "after": os.getloadavg()[0]},
        "rounds": row.rounds, "first_round": "dropped", "hardware": hardware(), "versions": versions(),
    }  # fmt: skip


def quartiles(values: Iterable[float]) -> dict[str, float]:
    low, middle, high = np.percentile(np.asarray(list(values), float), [25, 50, 75])
    return {"median": float(middle), "low": float(low), "high": float(high)}


def report(name: str, rows: Callable[[], Iterable[Row]], out: Path) -> list[dict[str, Any]]:
    """Measure the rows of a benchmark, print them and write NAME.json; rows measured earlier stay in it."""
    path, found = out / f"{name}.json", []
    for row in rows():
        load = os.getloadavg()
        found.append(summarize(row, measure(row.programs, row.rounds), load))
        show(found[-1])
        out.mkdir(parents=True, exist_ok=True)
        known = json.loads(path.read_text()) if path.is_file() else []
        known = {result["name"]: result for result in known} | {row.name: found[-1]}
        path.write_text(json.dumps([known[key] for key in sorted(known)], indent=1) + "\n")
    return found


def show(result: Mapping[str, Any]) -> None:
    """Two lines a program: seconds, and processor seconds."""
    for name, entry in result["programs"].items():
        for label, timed in ((f"{result['name']}: {name}", entry), ("    processor", entry["processor"])):
            spread = f"{timed['low']:.3f}-{timed['high']:.3f}"
            ratio = f"{timed['over_base']['median']:.3f}" if "over_base" in timed else ""
            floor = f"{timed['over_floor']:.2f}" if "over_floor" in timed else ""
            print(
                f"{label:44}{timed['median']:9.3f}{spread:>17}{ratio:>11}{floor:>11}  {result['base'] or ''}",
                flush=True,
            )
    for name, value in result["notes"].items():
        print(f"    {name}: {value if not isinstance(value, float) else format(value, '.4g')}", flush=True)


def hardware() -> dict[str, Any]:
    """What it ran on."""
    device = jax.devices()[0]
    info = {
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "device": device.device_kind,
        "devices": jax.device_count(),
    }
    cpu = Path("/proc/cpuinfo")
    if cpu.is_file():
        models = [
            line.split(":")[1].strip()
            for line in cpu.read_text().splitlines()
            if line.startswith("model name")
        ]
        info["cpu"] = models[0] if models else ""
    return info


def versions() -> dict[str, str]:
    """Of everything that may matter and is installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def temporary_bytes(jitted: Callable, *arguments: Any) -> int:
    """Peak of the temporary memory that the compiler plans for a call, arguments and results not counted."""
    return int(jitted.lower(*arguments).compile().memory_analysis().temp_size_in_bytes)
