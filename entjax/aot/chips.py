"""What accelerators can do, as their makers publish it: the ceilings that a compiled program is held against.

TPU figures: Google Cloud's pages on TPU system architecture (v4, v5e, v5p, v6e, TPU7x), per chip. Interconnect: the published
sum over all links of a chip, which only a collective that uses every link reaches, so times from it are lower bounds.
GPU: NVIDIA's H100 SXM data sheet, dense bf16.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple


class Chip(NamedTuple):
    name: str
    flops: float  # bf16 per second
    hbm: float  # bytes
    bandwidth: float  # of HBM, bytes per second
    links: float  # bytes per second that a chip can send to its neighbours
    devices: int = 1  # JAX devices per chip


GB = 1e9
CHIPS: Mapping[str, Chip] = MappingProxyType({
    "v4": Chip("v4", 275e12, 32 * GB, 1228 * GB, 300 * GB, devices=2),
    "v5e": Chip("v5e", 197e12, 16 * GB, 819 * GB, 200 * GB),
    "v5p": Chip("v5p", 459e12, 95 * GB, 2765 * GB, 600 * GB),
    "v6e": Chip("v6e", 918e12, 32 * GB, 1640 * GB, 448 * GB),
    "tpu7x": Chip("tpu7x", 2307e12, 192 * GB, 7380 * GB, 1200 * GB, devices=2),
    "h100": Chip("h100", 989e12, 80 * GB, 3350 * GB, 450 * GB),
})  # fmt: skip


def chip_of(topology: str) -> Chip:
    """The chip of a topology such as "v5p:4x4x4"."""
    name = topology.partition(":")[0]
    if name not in CHIPS or ":" not in topology:
        raise ValueError(
            f"--topology {topology}: give a chip and a shape, e.g. v5e:4x4 or v5p:4x4x4. Chips: {', '.join(CHIPS)}."
        )
    return CHIPS[name]
