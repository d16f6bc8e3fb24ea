"""Which shapes are compiled: sizes are rounded up so that a new length seldom means a new program."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

Bucket = Callable[[int], int]


def power_of_two(minimum: int) -> Bucket:
    """minimum, 2 * minimum, 4 * minimum, ..."""

    def bucket(size: int) -> int:
        result = minimum
        while result < size:
            result *= 2
        return result

    return bucket


def multiple_of(step: int) -> Bucket:
    """step, 2 * step, 3 * step, ..."""
    return lambda size: max(step, -(-size // step) * step)


class Shapes(NamedTuple):
    """How the sizes of a request are rounded up, and how much is done at a time.

    prompt: tokens of the longest prompt. new: tokens to sample. Their sum is the number of cache slots.
    rows: number of prompts, and of sequences; filler rows are done before they start.
    window: slots read by a step of the decode loop, which is compiled once for each value that occurs.
    at_once: sequences decoded at the same time; when there are more, rows that end make room for those that wait.
    block: tokens between two looks of the host, when it has to look: for stop strings, while sequences wait, or to shrink.
    shrink: when half of the rows are done and nobody waits for their places, the others go on in a batch of half the size, a
        program of its own, as long as that has so many rows; 0: never.
    share: prompts of at least so many slots are kept once for all their samples, if all of these are decoded at the same time;
        shorter ones are read in no time, and a softmax over two parts costs more. 0: never.
    threads: on a CPU a batch of generate() is decoded in up to so many parts side by side (parts.py); 0: one for each core.
    """

    prompt: Bucket = power_of_two(16)
    new: Bucket = multiple_of(16)
    rows: Bucket = multiple_of(1)
    window: Bucket = power_of_two(128)
    at_once: int = 1024
    block: int = 32
    shrink: int = 16
    share: int = 32
    threads: int = 0
