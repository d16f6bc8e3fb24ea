"""The run directory: made or refused before any work is done, and locked while a run writes to it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Mapping
from pathlib import Path

LOCK = ".lock"


class RunDirectoryError(ValueError):
    """The run directory cannot be used; the message says why."""


class RunDirectory:
    """`path` for a new run, or one to go on with. Entered, it is locked against other runs."""

    def __init__(
        self,
        path: Path,
        *,
        resume: bool,
        files: Mapping[str, str] | None = None,
        fill: Callable[[], None] = lambda: None,
    ):
        """`files`: texts written beside the logs when the run is new, such as config.py; `fill` fetches what another machine left
        of the run, once nobody else can write here."""
        self.path, self._resume, self._files, self._fill = Path(path), resume, dict(files or {}), fill
        self.resumed = False

    def __enter__(self) -> RunDirectory:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = (self.path / LOCK).open("a+")
        except OSError as error:
            raise RunDirectoryError(
                f"The run directory {self.path} cannot be written ({error.strerror}): choose another with --workdir."
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise RunDirectoryError(
                f"Another run is writing to {self.path}: end it first, or choose another --workdir."
            ) from error
        self._fill()
        used = (self.path / "metrics.jsonl").exists() or any(self.path.glob("checkpoints/step_*"))
        if used and not self._resume:
            self.__exit__()
            raise RunDirectoryError(
                f"{self.path} already holds a run: go on with --resume, or choose another --workdir."
            )
        self.resumed = used
        if not used:
            self.write()
        return self

    def write(self) -> None:
        """The files of a run as it begins or goes on."""
        for name, text in self._files.items():
            (self.path / name).write_text(text)

    def __exit__(self, *exception: object) -> None:
        fcntl.flock(self._lock, fcntl.LOCK_UN)
        self._lock.close()


def newest_workdir(root: Path, name: str) -> Path:
    """runs/NAME, or runs/NAME-2, -3 ... if that is taken."""
    candidate, n = root / name, 1
    while candidate.exists() and any(p.name != LOCK for p in os.scandir(candidate)):
        n += 1
        candidate = root / f"{name}-{n}"
    return candidate
