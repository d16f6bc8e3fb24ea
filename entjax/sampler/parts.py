"""A batch in parts that are decoded side by side, each by a thread of its own: for CPUs.

Beside its products a token of a few rows is work too small to be shared among cores, and as one batch it leaves all but one of
them idle for a third of the time. Prompts have nothing to do with each other, so each core may as well decode some of them.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from entjax.sampler.shapes import Shapes

ROWS = 14  # a part has at least so many,
WEIGHTS = 3_000_000  # and one more for so many weights: each part reads all of them for every token
SETTINGS = (  # of JAX that a `with` gives to its own thread only
    jax.enable_x64,
    jax.default_device,
    jax.default_matmul_precision,
    jax.numpy_dtype_promotion,
    jax.debug_nans,
)


def count_parts(params: Any, prompts: int, rows: int, threads: int) -> int:
    """The largest number of parts, up to `threads` (0: the cores that this process may use), that have rows enough and as many
    prompts each; 1 where the weights are not on one CPU."""
    leaves = jax.tree.leaves(params)
    devices = {device for x in leaves if isinstance(x, jax.Array) for device in x.devices()}
    if len(devices) != 1 or devices.pop().platform != "cpu":
        return 1
    least = ROWS + sum(map(np.size, leaves)) // WEIGHTS
    most = min(threads or cores(), rows // least)
    return max((n for n in range(1, most + 1) if prompts % n == 0), default=1)


def shapes_of_part(shapes: Shapes, parts: int) -> Shapes:
    """The buckets of the whole, cut like it: as many shapes are compiled, and no more filler is decoded."""
    rows = lambda size: -(-shapes.rows(parts * size) // parts)
    return shapes._replace(rows=rows, at_once=shapes.at_once // parts)


def side_by_side(f: Callable[[int], Any], count: int) -> list[Any]:
    """[f(0), ..., f(count - 1)], each on a thread that has the caller's settings of JAX."""
    given = [(setting, setting.value) for setting in SETTINGS]

    def run(number: int) -> Any:
        with contextlib.ExitStack() as stack:
            for setting, value in given:
                if setting.value != value:
                    stack.enter_context(setting(value))
            return f(number)

    pool = ThreadPoolExecutor(count, "decode")
    try:
        return list(pool.map(run, range(count)))
    finally:
        pool.shutdown(wait=False)  # an error or Ctrl-C need not wait for the others


def cores() -> int:
    """How many of the machine's this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
