"""What strategies remember, as arrays by name: harvests in and out of them, and all of them as one text for a checkpoint.

The text is a compressed npz in base64: exact, without pickle, refused when it holds anything but numbers and texts.
"""

from __future__ import annotations

import base64
import io
import json
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from entjax.rollouts.harvest import Harvest, Memory
from entjax.sampler import Completions
from entjax.tasks import Example, Report

MOST_BYTES = 2**32  # a small file may unpack to any size


def pack(memory: Memory) -> str:
    """The memory as text; "" if there is none."""
    arrays = {name: np.asarray(value) for name, value in memory.items()}
    bad = [name for name, value in arrays.items() if value.dtype.kind not in "biufU"]
    if bad:
        raise TypeError(
            f"The strategy's memory '{bad[0]}' has the type {arrays[bad[0]].dtype}: keep arrays of numbers or texts."
        )
    if not arrays:
        return ""
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return base64.b64encode(file.getvalue()).decode()


def unpack(text: str) -> dict[str, np.ndarray]:
    """The memory that `pack` wrote."""
    return load_arrays(io.BytesIO(base64.b64decode(text)), "The strategy's memory") if text else {}


def load_arrays(file: Any, what: str) -> dict[str, np.ndarray]:
    """The arrays of an npz; `what` names it in the sentence that refuses anything else."""
    try:
        with zipfile.ZipFile(file) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > MOST_BYTES:
            raise ValueError(f"it unpacks to {size} bytes, at most {MOST_BYTES} are read")
        with np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except Exception as error:  # zipfile, zlib and numpy raise a dozen kinds, MemoryError among them
        raise ValueError(f"{what} is not what a run has written ({str(error)[:200]}).") from error


def from_harvest(harvest: Harvest) -> dict[str, np.ndarray]:
    """The sequences of a harvest as arrays; report and metrics are left behind."""
    c = {name: getattr(harvest.completions, name) for name in Completions.__dataclass_fields__}
    return {
        **{f"completions.{name}": value for name, value in c.items()},
        **{f"extra.{name}": np.asarray(value) for name, value in harvest.extra.items()},
        "example": np.array([json.dumps(list(example)) for example in harvest.examples], np.str_),
        "text": np.array([json.dumps(text) for text in harvest.texts], np.str_),
        "reward": np.asarray(harvest.reward, np.float32),
    }


def to_harvest(arrays: Mapping[str, np.ndarray]) -> Harvest:
    """The sequences again."""
    part = lambda prefix: {n.removeprefix(prefix): x for n, x in arrays.items() if n.startswith(prefix)}
    return Harvest(
        Completions(**part("completions.")),
        [Example(*json.loads(str(text))) for text in arrays["example"]],
        [json.loads(str(text)) for text in arrays["text"]],
        arrays["reward"],
        Report(),
        {},
        part("extra."),
    )


def inside(memory: Memory, name: str) -> dict[str, np.ndarray]:
    """The part of a memory under `name`."""
    return {key.removeprefix(f"{name}."): x for key, x in memory.items() if key.startswith(f"{name}.")}


def under(name: str, memory: Memory) -> dict[str, np.ndarray]:
    """A memory as the part `name` of another."""
    return {f"{name}.{key}": x for key, x in memory.items()}
