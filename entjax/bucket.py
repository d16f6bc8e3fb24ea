"""A run directory in a bucket (gs://...): checkpoints go there directly, the small files are kept here and copied at every save.

Logs are appended line by line, which buckets cannot do, and a new machine has none of them: before a run goes on, they are
fetched. The copy is made before the checkpoint that counts on it.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from etils import epath

from entjax.rundir import LOCK

FILES = ("config.py", "config.json", "metrics.jsonl", "samples.jsonl", "plots/dashboard.png")
FOLDERS = ("tensorboard", "profile")  # only sent: a run that goes on writes new files beside the old ones


class Place(NamedTuple):
    """Where a run directory is: `local`, and `remote` if it belongs in a bucket."""

    local: Path
    remote: Any = None  # an epath.Path

    @property
    def checkpoints(self) -> Any:
        """The folder that Orbax writes to."""
        return self.local.absolute() / "checkpoints" if self.remote is None else self.remote / "checkpoints"

    def pull(self) -> None:
        """Make the local files those of the bucket, also when it has none. The folder is locked by the caller."""
        if self.remote is None:
            return
        for old in self.local.glob("*"):
            if old.is_dir():
                shutil.rmtree(old)
            elif old.name != LOCK:
                old.unlink()
        for name in FILES:
            if (self.remote / name).exists():
                (self.local / name).parent.mkdir(parents=True, exist_ok=True)
                (self.local / name).write_bytes((self.remote / name).read_bytes())

    def push(self) -> None:
        """Copy the local files to the bucket."""
        if self.remote is None:
            return
        for path in [self.local / name for name in FILES if (self.local / name).exists()] + self._longer():
            there = self.remote / path.relative_to(self.local).as_posix()
            there.parent.mkdir(parents=True, exist_ok=True)
            there.write_bytes(path.read_bytes())

    def _longer(self) -> list[Path]:
        """The files in FOLDERS that are new or have grown."""
        found = []
        for path in (
            p for folder in FOLDERS for p in sorted((self.local / folder).rglob("*")) if p.is_file()
        ):
            there = self.remote / path.relative_to(self.local).as_posix()
            if not there.exists() or there.stat().length < path.stat().st_size:
                found.append(path)
        return found


def place_of(workdir: str | Path) -> Place:
    """The run directory that a path or an address like gs://bucket/runs/name means."""
    text = str(workdir)
    if "://" not in text:
        return Place(Path(workdir))
    if not text.startswith("gs://") or len(text.removeprefix("gs://").strip("/").split("/")) < 2:
        raise ValueError(f"--workdir {text}: give a folder, or gs://BUCKET/FOLDER.")
    try:
        remote = epath.Path(text)
        remote.exists()
    except ImportError as error:
        raise ImportError(f"--workdir {text}: buckets need gcsfs: pip install 'entjax[gcs]'.") from error
    return Place(Path(tempfile.gettempdir()) / "entjax-runs" / quote(text, safe=""), remote)
