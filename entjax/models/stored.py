"""How the weights of a decoder lie in safetensors: the tensors of a config, and arrays to tensors and back.

Checkpoints keep a matrix as [outputs, inputs] and one tensor a layer, the decoder as [inputs..., outputs...], stacked if scanned.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.tree_util import DictKey

from entjax.models.config import DecoderConfig
from entjax.models.decoder import Decoder
from entjax.models.int8 import SCALE, restored
from entjax.models.weights import (
    ADAPTERS,
    LAYER,
    OUTER,
    Weight,
    layer_weights,
    outer_weights,
    shape_of,
    weight_name,
)

Shapes = dict[str, tuple[int, ...]]


def tensors(config: DecoderConfig) -> Shapes:
    """Name in a checkpoint -> its shape there; outer weights first, then layer by layer."""
    weights = {weight.source: weight for weight in outer_weights(config).values()}
    return _shaped(weights | _of_layers(config, LAYER), config)


def adapters(config: DecoderConfig) -> Shapes:
    """The same of the adapters, which no checkpoint holds."""
    return _shaped(_of_layers(config, ADAPTERS), config)


def _of_layers(config: DecoderConfig, kind: dict[str, Weight]) -> dict[str, Weight]:
    table = [weight for name, weight in layer_weights(config).items() if name in kind]
    return {f"model.layers.{layer}.{w.source}": w for layer in range(config.layers) for w in table}


def _shaped(weights: dict[str, Weight], config: DecoderConfig) -> Shapes:
    return {name: _stored_shape(weight, config) for name, weight in weights.items()}


def _stored_shape(weight: Weight, config: DecoderConfig) -> tuple[int, ...]:
    """[outputs, inputs] for a matrix, flat for a bias over heads, the embedding as it is."""
    shape = shape_of(weight, config)
    if weight.summed:
        return int(np.prod(shape[weight.summed :])), int(np.prod(shape[: weight.summed]))
    return shape if "vocab" in weight.axes else (int(np.prod(shape)),)


def sources(path: tuple[Any, ...], config: DecoderConfig) -> tuple[Weight, list[str]]:
    """The weight at a path of the parameter tree, and the tensors it is made of (one a layer if stacked)."""
    name = weight_name(path)
    if name in OUTER:
        return OUTER[name], [OUTER[name].source]
    layers = [entry.key for entry in path if isinstance(entry, DictKey) and isinstance(entry.key, int)]
    weight = layer_weights(config)[name]
    return weight, [f"model.layers.{layer}.{weight.source}" for layer in layers or range(config.layers)]


def from_tensor(tensor: np.ndarray, weight: Weight, config: DecoderConfig) -> np.ndarray:
    """The array of the decoder from that of a checkpoint."""
    return (tensor.T if weight.summed else tensor).reshape(shape_of(weight, config))


def to_tensor(array: np.ndarray, weight: Weight) -> np.ndarray:
    """The array of a checkpoint from that of the decoder."""
    if not weight.summed:
        return array if "vocab" in weight.axes else array.reshape(-1)
    return array.reshape(int(np.prod(array.shape[: weight.summed])), -1).T


def tensor_reader(model: Decoder) -> Callable[[str], np.ndarray]:
    """name -> that tensor of the model on this host, from int8 in float32. Every process of a run asks for the same names in the
    same order."""
    found = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(nnx.split(model)[1])[0]:
        weight, names = sources(path, model.config)
        stacked = leaf.ndim > len(weight.axes)
        found |= {name: (weight, leaf, i if stacked else None) for i, name in enumerate(names)}

    def array(name: str) -> np.ndarray:
        _, leaf, layer = found[name]
        return _fetch(leaf if layer is None else leaf[layer])

    def get(name: str) -> np.ndarray:
        whole = array(name)
        whole = restored(whole, array(name + SCALE)) if name + SCALE in found else whole
        return to_tensor(whole, found[name][0])

    return get


def _fetch(array: jax.Array) -> np.ndarray:
    """The whole array on this host, gathered from the other processes if it is spread over them."""
    if array.is_fully_addressable:
        return np.asarray(array)
    from jax.experimental import multihost_utils  # only runs of several processes need it

    return np.asarray(multihost_utils.process_allgather(array, tiled=True))
