"""Where the processor time of a GRPO step goes: both halves against their floors, and the kinds of operations of a trace.

Command:  taskset -c 0 python -m benchmarks.where WORK MODEL      e.g. `a 4.2M`
On one thread processor seconds hardly depend on what else a machine does; the time of single operations does, so of these the
lower quartile of four runs is taken.
"""

from __future__ import annotations

import collections
import re
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.harness import ceiling
from benchmarks.work import MODELS, WORK, halves
from entjax import packing


def main(name: str, model: str) -> None:
    both = halves(MODELS[model], WORK[name])
    speed = max(ceiling(1024)[1] for _ in range(9))
    print(f"matmul: {speed / 1e9:.1f} GFLOP per processor second; computed places that are real: {packing.share(both.pack):.3f}"
          if both.pack else "plain rows")  # fmt: skip
    temporary = (
        both.trainer.step.lower(both.states[0], both.rollout, both.pack)
        .compile()
        .memory_analysis()
        .temp_size_in_bytes
    )
    for half, run in (("update", both.update), ("rollout", both.sample)):
        user, system = best(run)
        floor = both.flops[half] / speed
        print(f"{half}: {user + system:.3f} processor seconds ({system:.3f} of them in the kernel), floor {floor:.3f}, "
              f"ratio {(user + system) / floor:.2f}")  # fmt: skip
    print(f"temporary memory of the update: {temporary / 1e6:.0f} MB")
    for kind, seconds in by_kind(both.update).most_common(16):
        print(f"{seconds * 1e3:9.1f} ms  {kind}")


def best(run: Callable[[], Any], times: int = 4) -> tuple[float, float]:
    """(user, system) seconds of the cheapest of some runs, the first left out."""
    used = lambda: np.array(resource.getrusage(resource.RUSAGE_SELF)[:2])
    found = []
    for _ in range(times + 1):
        start = used()
        jax.block_until_ready(run())
        found.append(used() - start)
        time.sleep(0)
    return tuple(min(found[1:], key=sum))  # pyright: ignore


def by_kind(run: Callable[[], Any], times: int = 4) -> collections.Counter:
    """Seconds of a run by the kind of operation, from a trace."""
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(times):
                jax.block_until_ready(run())
        data = jax.profiler.ProfileData.from_file(str(next(Path(folder).rglob("*.xplane.pb"))))
    durations: dict[tuple, list[float]] = collections.defaultdict(list)
    for plane in data.planes:
        for line in plane.lines:
            for event in line.events:
                stats = dict(event.stats) if event.stats else {}
                if "hlo_op" in stats:
                    durations[stats.get("hlo_module"), stats["hlo_op"]].append(event.duration_ns / 1e9)
    kinds: collections.Counter = collections.Counter()
    for (_, name), found in durations.items():
        kinds[re.sub(r"[.\d]+$", "", name)] += sorted(found)[len(found) // 4] * len(found) / times
    return kinds


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
