"""Safetensors files: which tensor is where, read one at a time, written in shards; all else is refused."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
FLOATS = ("F64", "F32", "F16", "BF16")


class CheckpointError(ValueError):
    """A checkpoint folder that cannot be used, with what is wrong and what to do."""


class Stored(NamedTuple):
    """A tensor on disk, under the name that its file gives it."""

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: str


def read_json(path: Path) -> dict[str, Any]:
    """One JSON object from a file of the checkpoint."""
    if path.exists() and not path.is_file():
        raise CheckpointError(f"{path} is no regular file; a checkpoint folder holds copies of its files.")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"{path} is missing; a checkpoint folder holds config.json and safetensors."
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} could not be read as JSON ({error}); copy it again.") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} should hold a JSON object and holds a {type(found).__name__}.")
    return found


def tensors_of(folder: Path) -> dict[str, Stored]:
    """What the folder's safetensors files say they hold: name -> file, shape and type. Reads headers only."""
    if (folder / INDEX).is_file():
        placed = _placed_by_index(folder)
    else:
        placed = dict.fromkeys(_files_without_index(folder))
    return tensors_in(placed)


def tensors_in(placed: Mapping[Path, list[str] | None]) -> dict[str, Stored]:
    """What these files say they hold, or of what they hold the names that are asked for."""
    found: dict[str, Stored] = {}
    for path, names in placed.items():
        with open_tensors(path) as file:
            present = file.keys()
            absent = sorted(set(names or ()) - set(present))
            if absent:
                raise CheckpointError(
                    f"{path} lacks {some(absent)}, which {INDEX} places there; copy the file again."
                )
            for name in names or present:
                if name in found:
                    raise CheckpointError(
                        f"{name} is in both {found[name].path.name} and {path.name} of {path.parent}."
                    )
                view = file.get_slice(name)
                found[name] = Stored(path, name, tuple(view.get_shape()), view.get_dtype())
    return found


def _placed_by_index(folder: Path) -> dict[Path, list[str] | None]:
    index = read_json(folder / INDEX).get("weight_map")
    if not isinstance(index, dict) or not index:
        raise CheckpointError(f"{folder / INDEX} has no weight_map from tensor names to files.")
    placed: dict[Path, list[str] | None] = {}
    for name, file in index.items():
        # A name with a folder in it could point anywhere on this machine.
        if not isinstance(file, str) or "/" in file or "\\" in file or not file.endswith(".safetensors"):
            raise CheckpointError(
                f"{folder / INDEX} places {name} in {file!r}; only plain names of safetensors files "
                "in the same folder are followed."
            )
        names = placed.setdefault(folder / file, [])
        assert names is not None
        names.append(name)
    absent = sorted(path.name for path in placed if not path.is_file())
    if absent:
        raise CheckpointError(
            f"{folder} lacks {some(absent)} of the {len(placed)} files in {INDEX}; copy them too."
        )
    return placed


def _files_without_index(folder: Path) -> list[Path]:
    files = sorted(folder.glob("*.safetensors"))
    if files:
        return [folder / SINGLE] if folder / SINGLE in files else files
    pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    if pickles:
        raise CheckpointError(
            f"{folder} holds {some(pickles)}, a pickle, and opening a pickle runs whatever code its author "
            "put in; entjax reads safetensors only. Convert it where you trust it: "
            "AutoModelForCausalLM.from_pretrained(folder).save_pretrained(new_folder)."
        )
    raise CheckpointError(
        f"{folder} holds no safetensors file; a checkpoint has {SINGLE} or shards with {INDEX}."
    )


@contextlib.contextmanager
def open_tensors(path: Path) -> Iterator[Any]:
    """An open safetensors file whose header was checked against its length."""
    if not path.is_file():  # opening a pipe would wait for ever
        raise CheckpointError(f"{path} is no regular file; a checkpoint folder holds copies of its files.")
    try:
        file = safe_open(path, framework="numpy")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is not a whole safetensors file ({error}); it was probably cut off, so copy it again."
        ) from error
    with file as opened:
        yield opened


def check_tensors(folder: Path, found: Mapping[str, Stored], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Every expected tensor is there, in its shape and as floats, and nothing else that changes the model."""
    absent = sorted(set(expected) - set(found))
    if absent:
        raise CheckpointError(
            f"{folder} lacks {len(absent)} tensors that config.json asks for: {some(absent)}."
        )
    surplus = sorted(name for name in set(found) - set(expected) if not _harmless(name))
    if surplus:
        raise CheckpointError(
            f"{folder} holds {len(surplus)} tensors that config.json does not explain: {some(surplus)}; "
            "leaving them out would change the model, so it is refused."
        )
    for name, shape in expected.items():
        if found[name].shape != shape:
            raise CheckpointError(
                f"{name} in {found[name].path} has shape {found[name].shape} where config.json says {shape}."
            )
        if found[name].dtype not in FLOATS:
            raise CheckpointError(
                f"{name} in {found[name].path} is stored as {found[name].dtype}; entjax trains weights in "
                f"floating point ({', '.join(FLOATS)}), so take the checkpoint that is not quantised."
            )


def _harmless(name: str) -> bool:
    """Tables that can be computed, and the copy of the embedding that some tied checkpoints carry along."""
    return name.endswith("rotary_emb.inv_freq") or name == "lm_head.weight"


def write_shards(
    folder: Path,
    shapes: Mapping[str, tuple[int, ...]],
    get: Callable[[str], np.ndarray],
    itemsize: int,
    limit: int,
) -> None:
    """Writes the tensors, made one at a time by `get`, into files of at most `limit` bytes or one tensor."""
    shards: list[list[str]] = [[]]
    filled = 0
    for name, shape in shapes.items():
        size = int(np.prod(shape)) * itemsize
        if shards[-1] and filled + size > limit:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    single = len(shards) == 1
    files = [
        SINGLE if single else f"model-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))
    ]
    for file, names in zip(files, shards, strict=True):
        # safetensors writes the memory of an array as it lies, so a transposed view would be stored wrongly.
        save_file(
            {name: np.ascontiguousarray(get(name)) for name in names},
            folder / file,
            metadata={"format": "pt"},
        )
    if not single:
        placed = {name: file for file, names in zip(files, shards, strict=True) for name in names}
        total = sum(int(np.prod(shape)) * itemsize for shape in shapes.values())
        index = {"metadata": {"total_size": total}, "weight_map": placed}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def some(names: list[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
