"""Hugging Face folders to decoders and back, one tensor at a time, sharded from the first byte if asked."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from entjax.models.config import DecoderConfig
from entjax.models.decoder import Decoder
from entjax.models.files import (
    CheckpointError,
    Stored,
    check_tensors,
    open_tensors,
    read_json,
    tensors_of,
    write_shards,
)
from entjax.models.hf_config import config_from_hf, config_to_hf
from entjax.models.int8 import SCALE, rounded, scale_of
from entjax.models.lora import OUTPUT, merged
from entjax.models.peft import adapter_tensors, with_rank
from entjax.models.stored import adapters, from_tensor, sources, tensor_reader, tensors
from entjax.models.tokenizer import check_vocabulary, copy_tokenizer, count_tokens
from entjax.models.weights import ADAPTERS, OUTER, SCALES, frozen_dtype, shape_of, weight_name

SHARD_BYTES = 4 * 2**30


def abstract_params(config: DecoderConfig) -> Any:
    """The parameter tree with shapes and types only, to make `shardings` from before anything is loaded."""
    return nnx.split(nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0))))[1]


def load_hf(
    folder: str | Path,
    *,
    adapter: str | Path | None = None,
    shardings: Any = None,
    seed: int = 0,
    **changes: Any,
) -> Decoder:
    """The decoder in a Hugging Face folder (config.json and safetensors).

    `changes` are fields of DecoderConfig: dtype and param_dtype (float32 by default), scan_layers, remat, lora, int8.
    `adapter`: a PEFT folder, whose adapters are trained on; others are drawn from `seed`.
    `shardings` is a tree like `abstract_params(config)` of shardings; a process then keeps only its own part.
    """
    folder = Path(folder)
    config = load_config(folder, adapter=adapter, **changes)
    tokens = count_tokens(folder)
    if tokens is not None:
        check_vocabulary(folder, tokens, config.vocab)
    found = tensors_of(folder)
    check_tensors(folder, found, tensors(config))
    if adapter is not None:
        found |= adapter_tensors(adapter, config)
    graphdef, empty = nnx.split(nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0))))
    scales: dict[str, np.ndarray] = {}
    with contextlib.ExitStack() as stack:
        files = {path: stack.enter_context(open_tensors(path)) for path in {t.path for t in found.values()}}

        def fill(path: tuple[Any, ...], leaf: Any, sharding: Any = None) -> jax.Array:
            (weight, names), kind = sources(path, config), weight_name(path)

            def read(name: str) -> Any:
                if kind in ADAPTERS and name not in found:
                    return _drawn(name, kind, config, seed)
                if kind in SCALES:
                    return scales.pop(name)  # its matrix stands before it
                stored = found[name]
                whole = from_tensor(files[stored.path].get_tensor(stored.name), weight, config)
                if leaf.dtype != jnp.int8:
                    return whole
                scale = scales[name + SCALE] = scale_of(whole, weight.summed, frozen_dtype(config))
                if not np.isfinite(scale.astype(np.float32)).all():
                    raise CheckpointError(f"{name} in {folder} is not finite: it cannot be kept as int8.")
                return rounded(whole, scale)

            stacked = leaf.ndim > len(weight.axes)
            return _assemble(map(read, names), leaf.shape, leaf.dtype, sharding, stacked)

        if config.tied:
            _check_tied(folder, found, files)
        trees = (empty,) if shardings is None else (empty, shardings)
        params = jax.tree_util.tree_map_with_path(fill, *trees)
    return nnx.merge(graphdef, params)


def load_config(folder: str | Path, *, adapter: str | Path | None = None, **changes: Any) -> DecoderConfig:
    """The DecoderConfig of a Hugging Face folder (and of the adapter beside it), without weights."""
    folder = Path(folder)
    if not folder.is_dir():
        hub = f": hf download {folder} --local-dir models/{folder.name}" if _of_a_hub(folder) else "."
        raise CheckpointError(
            f"{folder} is not a folder; give a local Hugging Face checkpoint, entjax downloads none{hub}"
        )
    return config_from_hf(read_json(folder / "config.json"), **with_rank(adapter, changes))


def alphabet_of(folder: str | Path) -> str | None:
    """The characters of a character-level model's folder, if they were written down."""
    path = Path(folder) / "config.json"
    return read_json(path).get("alphabet") if path.is_file() else None


def _of_a_hub(name: Path) -> bool:
    """Is this spelt as a hub names models, and no path of this machine?"""
    return len(name.parts) == 2 and name.parts[0] not in ("models", "..", "/") and not name.parent.exists()


def save_hf(
    folder: str | Path,
    model: Decoder,
    tokenizer_from: str | Path | None = None,
    *,
    alphabet: str | None = None,
    dtype: Any = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes config.json and safetensors that transformers opens, with the tokenizer of `tokenizer_from`, or with the alphabet of
    a character-level model, which another task's is then compared with.

    Every process of a run calls it, the first one writes. `dtype` converts the weights, e.g. to bfloat16; adapters are merged
    into their matrices.
    """
    folder, config = Path(folder), model.config
    raw = config_to_hf(config)
    dtype = jnp.dtype(config.param_dtype if dtype is None else dtype)
    raw["torch_dtype"] = dtype.name
    if folder.is_dir() and any([*folder.glob("*.safetensors*"), *folder.glob("config.json")]):
        raise CheckpointError(
            f"{folder} already holds a checkpoint; choose another folder or remove it first."
        )
    read, beside = tensor_reader(model), adapters(config)
    shapes = tensors(config)

    def get(name: str) -> np.ndarray:
        whole, factors = read(name), [name.replace("weight", f"lora_{factor}.weight") for factor in "AB"]
        if factors[0] in beside:
            whole = merged(whole, *map(read, factors), config)
        return whole.astype(dtype)

    if jax.process_index() != 0:
        for name in shapes:  # takes part in the gathering of each tensor
            get(name)
        return
    folder.mkdir(parents=True, exist_ok=True)
    write_shards(folder, shapes, get, dtype.itemsize, shard_bytes)
    if tokenizer_from is not None:
        copy_tokenizer(Path(tokenizer_from), folder)
        raw |= _token_ids(Path(tokenizer_from))
    if alphabet is not None:
        raw["alphabet"] = alphabet
    # Last, so that a folder that was cut short is not taken for a checkpoint.
    (folder / "config.json").write_text(json.dumps(raw, indent=2) + "\n", encoding="utf-8")


def _check_tied(folder: Path, found: dict[str, Stored], files: dict[Path, Any]) -> None:
    """A tied checkpoint may carry its head along, but then it must be the embedding."""
    names = (OUTER["embedding"].source, OUTER["unembedding"].source)
    if names[1] in found and not np.array_equal(*(files[found[n].path].get_tensor(n) for n in names)):
        raise CheckpointError(
            f"config.json in {folder} ties the head to the embedding and {names[1]} is another matrix; "
            "set tie_word_embeddings to false in config.json if the head was meant to be used."
        )


def _token_ids(source: Path) -> dict[str, Any]:
    """The special token ids that generation needs, from the folder that the tokenizer came from."""
    if not (source / "config.json").is_file():
        return {}
    raw = read_json(source / "config.json")
    return {name: raw[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id") if name in raw}


def _drawn(source: str, name: str, config: DecoderConfig, seed: int) -> np.ndarray:
    """A factor of an adapter, the tensor `source`, the same on every process."""
    shape = shape_of(ADAPTERS[name], config)
    if name.endswith(OUTPUT):
        return np.zeros(shape, np.float32)
    spread = float(3 * np.prod(shape[:-1])) ** -0.5
    generator = np.random.default_rng([seed, *source.replace("lora_A.", "").encode()])
    return spread * generator.standard_normal(shape, np.float32)


def _assemble(tensors: Any, shape: tuple[int, ...], dtype: Any, sharding: Any, stacked: bool) -> jax.Array:
    """An array from its tensors (one a layer if stacked), keeping only the parts that this process holds."""
    whole = {None: (slice(None),) * len(shape)}
    parts = whole if sharding is None else sharding.addressable_devices_indices_map(shape)
    bounds = {
        device: tuple(s.indices(n)[:2] for s, n in zip(index, shape)) for device, index in parts.items()
    }
    # Replicas of a part share one buffer.
    pieces = {part: np.empty([stop - start for start, stop in part], dtype) for part in bounds.values()}
    for layer, tensor in enumerate(tensors):
        for part, piece in pieces.items():
            inner = tuple(slice(*bound) for bound in (part[1:] if stacked else part))
            if not stacked:
                piece[...] = tensor[inner]
            elif part[0][0] <= layer < part[0][1]:
                piece[layer - part[0][0]] = tensor[inner]
    if sharding is None:
        return jnp.asarray(pieces[bounds[None]])
    arrays = [jax.device_put(pieces[part], device) for device, part in bounds.items()]
    return jax.make_array_from_single_device_arrays(shape, sharding, arrays)
