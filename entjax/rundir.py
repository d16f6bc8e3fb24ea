"""The run directory: made or refused before any work is done, and locked while a run writes to it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Mapping
from pathlib import Path


class RunDirectoryError(ValueError):
    """The run directory cannot be used; the message says why."""


class RunDirectory:
    """`path` for a new run, or one to go on with. Entered, it is locked against other runs."""

    def __init__(self, path: Path, *, resume: bool, files: Mapping[str, str] | None = None):
        """`files`: texts written beside the logs when the run is new, such as config.py."""
        self.path, self._resume, self._files = Path(path), resume, dict(files or {})
        self.resumed = False

    def __enter__(self) -> RunDirectory:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = (self.path / ".lock").open("a+")
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
        used = (self.path / "metrics.jsonl").exists()
        if used and not self._resume:
            self.__exit__()
            raise RunDirectoryError(
                f"{self.path} already holds a run: go on with --resume, or choose another --workdir."
            )
        self.resumed = used
        for name, text in self._files.items():
            if not used:
                (self.path / name).write_text(text)
        return self

    def __exit__(self, *exception: object) -> None:
        fcntl.flock(self._lock, fcntl.LOCK_UN)
        self._lock.close()


def newest_workdir(root: Path, name: str) -> Path:
    """runs/NAME, or runs/NAME-2, -3 ... if that is taken."""
    candidate, n = root / name, 1
    while candidate.exists() and any(p.name != ".lock" for p in os.scandir(candidate)):
        n += 1
        candidate = root / f"{name}-{n}"
    return candidate
