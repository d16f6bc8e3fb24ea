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
from jax.tree_util import DictKey

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
from entjax.models.lora import INPUT, OUTPUT, merged
from entjax.models.tokenizer import check_vocabulary, copy_tokenizer, count_tokens
from entjax.models.weights import (
    ADAPTERS,
    OUTER,
    Weight,
    layer_weights,
    outer_weights,
    shape_of,
    weight_name,
)

SHARD_BYTES = 4 * 2**30


def abstract_params(config: DecoderConfig) -> Any:
    """The parameter tree with shapes and types only, to make `shardings` from before anything is loaded."""
    return nnx.split(nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0))))[1]


def load_hf(folder: str | Path, *, shardings: Any = None, seed: int = 0, **changes: Any) -> Decoder:
    """The decoder in a Hugging Face folder (config.json and safetensors).

    `changes` are fields of DecoderConfig: dtype and param_dtype (float32 by default), scan_layers, remat, lora.
    `shardings` is a tree like `abstract_params(config)` of shardings; a process then keeps only its own part. Adapters are drawn
    from `seed`.
    """
    folder = Path(folder)
    config = load_config(folder, **changes)
    tokens = count_tokens(folder)
    if tokens is not None:
        check_vocabulary(folder, tokens, config.vocab)
    found = tensors_of(folder)
    check_tensors(folder, found, _stored_shapes(config))
    graphdef, empty = nnx.split(nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0))))
    with contextlib.ExitStack() as stack:
        files = {path: stack.enter_context(open_tensors(path)) for path in {t.path for t in found.values()}}

        def fill(path: tuple[Any, ...], leaf: Any, sharding: Any = None) -> jax.Array:
            weight, names = _sources(path, config)
            if weight_name(path) in ADAPTERS:
                tensors = (_drawn(name, weight_name(path), config, seed) for name in names)
            else:
                tensors = (_from_stored(files[found[n].path].get_tensor(n), weight, config) for n in names)
            return _assemble(tensors, leaf.shape, leaf.dtype, sharding, stacked=leaf.ndim > len(weight.axes))

        if config.tied:
            _check_tied(folder, found, files)
        trees = (empty,) if shardings is None else (empty, shardings)
        params = jax.tree_util.tree_map_with_path(fill, *trees)
    return nnx.merge(graphdef, params)


def load_config(folder: str | Path, **changes: Any) -> DecoderConfig:
    """The DecoderConfig of a Hugging Face folder, without its weights."""
    folder = Path(folder)
    if not folder.is_dir():
        hub = f": hf download {folder} --local-dir models/{folder.name}" if _of_a_hub(folder) else "."
        raise CheckpointError(
            f"{folder} is not a folder; give a local Hugging Face checkpoint, entjax downloads none{hub}"
        )
    return config_from_hf(read_json(folder / "config.json"), **changes)


def _of_a_hub(name: Path) -> bool:
    """Is this spelt as a hub names models, and no path of this machine?"""
    return len(name.parts) == 2 and name.parts[0] not in ("models", "..", "/") and not name.parent.exists()


def save_hf(
    folder: str | Path,
    model: Decoder,
    tokenizer_from: str | Path | None = None,
    *,
    dtype: Any = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes config.json and safetensors that transformers opens, with the tokenizer of `tokenizer_from`.

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
    leaves = jax.tree_util.tree_flatten_with_path(nnx.split(model)[1])[0]
    placed = {}  # by the name of the tensor, and of the adapter's factor if it is one
    for path, leaf in leaves:
        weight, names = _sources(path, config)
        stacked, factor = leaf.ndim > len(weight.axes), _adapted(weight_name(path))[1]
        placed |= {(name, factor): (leaf, i if stacked else None) for i, name in enumerate(names)}
    by_name = {name: weight for name, (weight, _) in _stored(config).items()}

    def array(name: str, factor: str) -> np.ndarray:
        leaf, layer = placed[name, factor]
        return _fetch(leaf if layer is None else leaf[layer])

    def get(name: str) -> np.ndarray:
        whole = array(name, "")
        if (name, OUTPUT) in placed:
            whole = merged(whole, array(name, INPUT), array(name, OUTPUT), config)
        return _to_stored(whole, by_name[name]).astype(dtype)

    if jax.process_index() != 0:
        for name in by_name:  # takes part in the gathering of each tensor
            get(name)
        return
    folder.mkdir(parents=True, exist_ok=True)
    write_shards(folder, _stored_shapes(config), get, dtype.itemsize, shard_bytes)
    if tokenizer_from is not None:
        copy_tokenizer(Path(tokenizer_from), folder)
        raw |= _token_ids(Path(tokenizer_from))
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


def _stored(config: DecoderConfig) -> dict[str, tuple[Weight, tuple[int, ...]]]:
    """Name in the checkpoint -> the weight and its shape there; outer weights first, then layer by layer."""
    weights = {weight.source: weight for weight in outer_weights(config).values()}
    for layer in range(config.layers):
        weights |= {f"model.layers.{layer}.{w.source}": w for w in layer_weights(config).values() if w.source}
    return {name: (weight, _stored_shape(weight, config)) for name, weight in weights.items()}


def _stored_shapes(config: DecoderConfig) -> dict[str, tuple[int, ...]]:
    return {name: shape for name, (_, shape) in _stored(config).items()}


def _stored_shape(weight: Weight, config: DecoderConfig) -> tuple[int, ...]:
    """[outputs, inputs] for a matrix, flat for a bias over heads, the embedding as it is."""
    shape = shape_of(weight, config)
    if weight.summed:
        return int(np.prod(shape[weight.summed :])), int(np.prod(shape[: weight.summed]))
    return shape if "vocab" in weight.axes else (int(np.prod(shape)),)


def _sources(path: tuple[Any, ...], config: DecoderConfig) -> tuple[Weight, list[str]]:
    """The weight at a path of the parameter tree, and the tensors it is made of, or beside (one a layer if stacked)."""
    name = weight_name(path)
    if name in OUTER:
        return OUTER[name], [OUTER[name].source]
    layers = [entry.key for entry in path if isinstance(entry, DictKey) and isinstance(entry.key, int)]
    table = layer_weights(config)
    source = table[_adapted(name)[0]].source
    return table[name], [f"model.layers.{layer}.{source}" for layer in layers or range(config.layers)]


def _adapted(name: str) -> tuple[str, str]:
    """("query", "_lora_in") for "query_lora_in", the factor of an adapter; ("query", "") for the matrix itself."""
    end = next((end for end in (INPUT, OUTPUT) if name.endswith(end)), "")
    return name.removesuffix(end), end


def _drawn(source: str, name: str, config: DecoderConfig, seed: int) -> np.ndarray:
    """A factor of the adapter of the tensor `source`, the same on every process."""
    shape = shape_of(ADAPTERS[name], config)
    if name.endswith(OUTPUT):
        return np.zeros(shape, np.float32)
    spread = float(3 * np.prod(shape[:-1])) ** -0.5
    generator = np.random.default_rng([seed, *source.encode()])
    return spread * generator.standard_normal(shape, np.float32)


def _from_stored(tensor: np.ndarray, weight: Weight, config: DecoderConfig) -> np.ndarray:
    return (tensor.T if weight.summed else tensor).reshape(shape_of(weight, config))


def _to_stored(array: np.ndarray, weight: Weight) -> np.ndarray:
    if not weight.summed:
        return array if "vocab" in weight.axes else array.reshape(-1)
    return array.reshape(int(np.prod(array.shape[: weight.summed])), -1).T


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


def _fetch(array: jax.Array) -> np.ndarray:
    """The whole array on this host, gathered from the other processes if it is spread over them."""
    if array.is_fully_addressable:
        return np.asarray(array)
    from jax.experimental import multihost_utils  # only runs of several processes need it

    return np.asarray(multihost_utils.process_allgather(array, tiled=True))
