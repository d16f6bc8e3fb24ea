"""What packs save on a slice: the update compiled for TPUs, for a batch of spread lengths, as plain rows and as a pack.

Command:  python -m benchmarks.spread CONFIG TOPOLOGY [key=value ...]      e.g. `qwen25_math_1_5b v5e:4x4`; needs libtpu

Lengths are log-normal around a quarter of max_new_tokens (standard deviation .6 of the logarithm), prompts have 512 tokens.
"""

from __future__ import annotations

import sys
import time

import numpy as np

from entjax import packing, setup
from entjax.aot import hlo, programs
from entjax.config import load_config, parse_overrides, shipped_configs

GB = 1e9


def lengths(p: programs.Plan, seed: int = 0) -> np.ndarray:
    """Of completions, spread."""
    draw = np.random.default_rng(seed).normal(np.log(p.sizes.new / 4), 0.6, p.sizes.rows)
    return np.clip(np.exp(draw), 16, p.sizes.new).astype(int)


def main(name: str, topology: str, *words: str) -> None:
    config = load_config(shipped_configs() / f"{name}.py").override(parse_overrides(list(words)))
    p = programs.plan(config, topology)
    rollout = programs.rollout_of(p, lengths(p))
    pack = setup.make_planner(p.config, p.model, p.layout)(rollout)
    if pack is None:
        raise SystemExit("Plain rows cost as little for such lengths: there is nothing to compare.")
    print(f"places: {rollout.mask.size} plain, {pack.computed} in {pack.count.tolist()} pieces; real tokens of those plain rows "
          f"compute: {packing.plain_share(rollout):.2f}, of the pack's: {packing.share(pack):.2f}")  # fmt: skip
    for label, places in (("plain rows", None), ("pack", pack)):
        started = time.process_time()
        compiled = programs.lower_update(p, places).compile()
        seconds = time.process_time() - started
        memory = compiled.memory_analysis()
        program = hlo.parse(compiled.as_text(), open_loops=int(pack.count.max()), branches=p.reads)
        sent = sum(one.total for one in hlo.collectives(program, p.layout.mesh.size))
        needed = memory.argument_size_in_bytes + memory.temp_size_in_bytes
        print(f"{label}: {needed / GB:.2f} GB, {sent / GB:.0f} GB sent, {hlo.traffic(program) / GB:.0f} GB of HBM traffic, "
              f"all a device; compiled in {seconds:.0f} CPU s", flush=True)  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:])
