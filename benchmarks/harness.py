"""Paired measurements: programs that do the same work alternate A B A B in one process, beside a matmul of known cost.

Seconds of a shared machine say little; the ratio of two programs within one round says much. The first round is dropped (it
compiles), the median over the others and its spread (the quartiles) are kept, and the floor is what the arithmetic alone would
take at the matmul speed measured in the same rounds.
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
    notes: Mapping[str, Any] = {}


class Timing(NamedTuple):
    seconds: dict[str, list[float]]  # per program, the first round left out
    ceiling: list[float]  # matmul FLOP/s of each round


def ceiling(size: int = 0) -> float:
    """FLOP/s of a float32 matmul on this machine, now."""
    size = size or (4096 if jax.default_backend() != "cpu" else 1536)
    a = jnp.ones((size, size), jnp.float32)
    _product(a, a).block_until_ready()
    start = time.perf_counter()
    _product(a, a).block_until_ready()
    return 2.0 * size**3 / (time.perf_counter() - start)


@jax.jit
def _product(a, b):
    return a @ b


def measure(programs: Mapping[str, Callable[[], Any]], rounds: int) -> Timing:
    """Run every program once a round; round 0 is warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    speeds = []
    for number in range(rounds + 1):
        speed = ceiling()
        for name, run in programs.items():
            gc.collect()
            start = time.perf_counter()
            jax.block_until_ready(run())
            taken = time.perf_counter() - start
            if number:
                seconds[name].append(taken)
        if number:
            speeds.append(speed)
    return Timing(seconds, speeds)


def summarize(row: Row, timing: Timing, load: tuple[float, ...]) -> dict[str, Any]:
    """The JSON of a row: every run, medians, quartiles, paired ratios and the distance from the floor."""
    speed = max(timing.ceiling)
    base = timing.seconds[row.base] if row.base else None
    programs = {}
    for name, seconds in timing.seconds.items():
        entry: dict[str, Any] = {"seconds": seconds, **quartiles(seconds)}
        if base is not None and name != row.base:
            entry["over_base"] = quartiles(np.divide(seconds, base))
        if row.flops:
            entry["over_floor"] = entry["median"] / (row.flops / speed)
            entry["flops_per_second"] = row.flops / entry["median"]
        programs[name] = entry
    return {
        "name": row.name, "counts": row.counts, "shapes": dict(row.shapes), "base": row.base, "flops": row.flops,
        "floor_seconds": row.flops / speed if row.flops else None,
        "matmul_flops_per_second": {"best": speed, **quartiles(timing.ceiling)},
        "programs": programs, "notes": dict(row.notes),
        "load_average": {"before": load[0], "after": os.getloadavg()[0]},
        "rounds": row.rounds, "first_round": "dropped", "hardware": hardware(), "versions": versions(),
    }  # fmt: skip


def quartiles(values: Iterable[float]) -> dict[str, float]:
    low, middle, high = np.percentile(np.asarray(list(values), float), [25, 50, 75])
    return {"median": float(middle), "low": float(low), "high": float(high)}


def report(name: str, rows: Callable[[], Iterable[Row]], out: Path) -> list[dict[str, Any]]:
    """Measure the rows of a benchmark, print them and write NAME.json."""
    found = []
    for row in rows():
        load = os.getloadavg()
        found.append(summarize(row, measure(row.programs, row.rounds), load))
        show(found[-1])
        out.mkdir(parents=True, exist_ok=True)
        (out / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")
    return found


def show(result: Mapping[str, Any]) -> None:
    """One line a program."""
    for name, entry in result["programs"].items():
        spread = f"{entry['low']:.3f}-{entry['high']:.3f}"
        ratio = f"{entry['over_base']['median']:.3f}" if "over_base" in entry else ""
        floor = f"{entry['over_floor']:.2f}" if "over_floor" in entry else ""
        label = f"{result['name']}: {name}"
        print(
            f"{label:44}{entry['median']:9.3f}{spread:>17}{ratio:>11}{floor:>11}  {result['base'] or ''}",
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
