"""What a run writes while it goes: metrics.jsonl, samples.jsonl, TensorBoard where installed, and one line of progress.

Files are appended line by line. Their lengths are part of a checkpoint: a resumed run cuts them back to where the checkpoint
was taken, so that no step appears twice.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO


class Lines:
    """A file of JSON lines."""

    def __init__(self, path: Path, start: int | None = None):
        """Append to `path`; `start` cuts it to so many bytes first."""
        self.path = path
        if start is not None and path.exists() and path.stat().st_size > start:
            with path.open("r+b") as file:
                file.truncate(start)
        self._file = path.open("a", encoding="utf-8")

    def write(self, record: Mapping[str, Any]) -> None:
        with self._sentence():
            self._file.write(json.dumps(_finite(record), ensure_ascii=False) + "\n")
            self._file.flush()

    def position(self) -> int:
        """Bytes written so far, on disk."""
        with self._sentence():
            self._file.flush()
            os.fsync(self._file.fileno())
            return self.path.stat().st_size

    def close(self) -> None:
        with contextlib.suppress(OSError):  # told when it was written
            self._file.close()

    @contextlib.contextmanager
    def _sentence(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OSError(
                f"{self.path} cannot be written ({error.strerror}). Is the disk full, or the run directory gone? Make room and "
                "go on with --resume: the run goes back to its last checkpoint."
            ) from error


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The records of a JSON-lines file; a last line cut short by a crash is left out."""
    records = []
    for line in path.read_text(encoding="utf-8").split("\n"):
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


class Nowhere:
    """Takes what Lines, TensorBoard and Progress take, and keeps nothing: for all processes of a run but the first."""

    def write(self, *what: Any) -> None: ...

    def show(self, *what: Any) -> None: ...

    def close(self) -> None: ...

    def position(self) -> int:
        return 0


class Progress:
    """One line on the terminal, rewritten in place (one line in ten otherwise), with the time left."""

    def __init__(self, total: int, what: str, stream: TextIO | None = None):
        self._total, self._what = total, what
        self._stream = sys.stderr if stream is None else stream
        self._live = self._stream.isatty()
        self._first: tuple[int, float] | None = None
        self._width = 0

    def show(self, step: int, text: str) -> None:
        """Say that `step` of `total` is done."""
        now = time.monotonic()
        if self._first is None:  # the first step holds the compilation and would spoil the estimate
            self._first = (step, now)
        done, seconds = step - self._first[0], now - self._first[1]
        left = f"  eta {clock(seconds / done * (self._total - step))}" if done else ""
        line = f"{self._what} {step}/{self._total}  {text}{left}"
        if self._live:
            self._stream.write("\r" + line.ljust(self._width))
            self._width = len(line)
        elif step % 10 == 0 or step in (1, self._total):
            self._stream.write(line + "\n")
        self._stream.flush()

    def close(self) -> None:
        if self._live and self._width:
            self._stream.write("\n")


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss or m:ss."""
    minutes, s = divmod(int(max(seconds, 0)), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02d}:{s:02d}" if hours else f"{m}:{s:02d}"


class TensorBoard:
    """Scalars for TensorBoard; silent where tensorboardX is not installed. `start` hides what was written of later steps."""

    def __init__(self, folder: Path, start: int | None = None):
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            self._writer = None
        else:
            self._writer = SummaryWriter(str(folder), purge_step=None if start is None else start + 1)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        if self._writer is not None:
            for name, value in metrics.items():
                if isinstance(value, (int, float)):
                    self._writer.add_scalar(name, value, step)
            self._writer.flush()  # a copy of the file holds the step

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


def _finite(value: Any) -> Any:
    """JSON has no NaN: such numbers become the words "nan", "inf", "-inf"."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return value
