"""What strategies remember, as arrays by name: harvests in and out of them, and all of them as one text for a checkpoint.

The text is a compressed npz in base64: exact, without pickle, refused when it holds anything but numbers and texts.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping

import numpy as np

from entjax.rollouts.harvest import Harvest, Memory
from entjax.sampler import Completions
from entjax.tasks import Example, Report


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
    if not text:
        return {}
    with np.load(io.BytesIO(base64.b64decode(text)), allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


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
