"""A trace of some steps of a run, for `profile="FIRST:LAST"`: open the folder with XProf, or the file with Perfetto."""

from __future__ import annotations

from pathlib import Path

import jax


class Profile:
    """A trace of steps FIRST to LAST for `profile="FIRST:LAST"`."""

    def __init__(self, steps: str, folder: Path):
        self._first, self._last = map(int, steps.split(":")) if steps else (-1, -1)
        self._folder, self._on = folder, False

    def __enter__(self) -> Profile:
        return self

    def at(self, step: int) -> None:
        if step == self._first:
            jax.profiler.start_trace(str(self._folder))
            self._on = True
        if step == self._last:
            self._stop()

    def _stop(self) -> None:
        if self._on:
            jax.profiler.stop_trace()
            self._on = False

    def __exit__(self, *exception: object) -> None:
        self._stop()
