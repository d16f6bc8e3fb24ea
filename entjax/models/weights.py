"""The weights of a decoder, each declared once: logical axes, first values, name in a checkpoint."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import DictKey

from entjax.models.config import DecoderConfig
from entjax.models.int8 import SCALE, rounded, scale_of
from entjax.models.lora import INPUT, MATRICES, OUTPUT

EMBEDDING_STD = 0.02


class Weight(NamedTuple):
    """One weight. Its shape follows from its axes; the first `summed` are contracted with the input.

    Checkpoints keep a matrix as [outputs, inputs]; vectors and the embedding, summed = 0, are kept as here.
    """

    axes: tuple[str, ...]
    summed: int
    source: str


OUTER = {
    "embedding": Weight(("vocab", "embed"), 0, "model.embed_tokens.weight"),
    "norm": Weight(("norm",), 0, "model.norm.weight"),
    "unembedding": Weight(("embed", "vocab"), 1, "lm_head.weight"),
}

LAYER = {
    "attention_norm": Weight(("norm",), 0, "input_layernorm.weight"),
    "query": Weight(("embed", "heads", "head_dim"), 1, "self_attn.q_proj.weight"),
    "key": Weight(("embed", "kv_heads", "head_dim"), 1, "self_attn.k_proj.weight"),
    "value": Weight(("embed", "kv_heads", "head_dim"), 1, "self_attn.v_proj.weight"),
    "out": Weight(("heads", "head_dim", "embed"), 2, "self_attn.o_proj.weight"),
    "query_bias": Weight(("heads", "head_dim"), 0, "self_attn.q_proj.bias"),
    "key_bias": Weight(("kv_heads", "head_dim"), 0, "self_attn.k_proj.bias"),
    "value_bias": Weight(("kv_heads", "head_dim"), 0, "self_attn.v_proj.bias"),
    "out_bias": Weight(("embed",), 0, "self_attn.o_proj.bias"),
    "query_norm": Weight(("head_dim",), 0, "self_attn.q_norm.weight"),
    "key_norm": Weight(("head_dim",), 0, "self_attn.k_norm.weight"),
    "attention_post_norm": Weight(("norm",), 0, "post_attention_layernorm.weight"),
    "mlp_norm": Weight(("norm",), 0, "post_attention_layernorm.weight"),
    "mlp_post_norm": Weight(("norm",), 0, "post_feedforward_layernorm.weight"),
    "gate": Weight(("embed", "mlp"), 1, "mlp.gate_proj.weight"),
    "up": Weight(("embed", "mlp"), 1, "mlp.up_proj.weight"),
    "down": Weight(("mlp", "embed"), 1, "mlp.down_proj.weight"),
    "gate_bias": Weight(("mlp",), 0, "mlp.gate_proj.bias"),
    "up_bias": Weight(("mlp",), 0, "mlp.up_proj.bias"),
    "down_bias": Weight(("embed",), 0, "mlp.down_proj.bias"),
}


def _factors(name: str, matrix: Weight) -> dict[str, Weight]:
    """The two factors of a matrix's adapter, called as PEFT calls them; they are in no checkpoint."""
    source = matrix.source.removesuffix("weight")
    return {
        name + INPUT: Weight(
            (*matrix.axes[: matrix.summed], "rank"), matrix.summed, f"{source}lora_A.weight"
        ),
        name + OUTPUT: Weight(("rank", *matrix.axes[matrix.summed :]), 1, f"{source}lora_B.weight"),
    }


ADAPTERS = {end: weight for name in MATRICES for end, weight in _factors(name, LAYER[name]).items()}


# Of the matrices as int8; they are in no checkpoint either.
SCALES = {
    name + SCALE: Weight(LAYER[name].axes[LAYER[name].summed :], 0, LAYER[name].source + SCALE)
    for name in MATRICES
}


def outer_weights(config: DecoderConfig) -> dict[str, Weight]:
    """The weights outside the layers; a tied decoder has no output projection of its own."""
    return {name: weight for name, weight in OUTER.items() if not (config.tied and name == "unembedding")}


def layer_weights(config: DecoderConfig) -> dict[str, Weight]:
    """The weights of one layer."""
    absent: set[str] = set()
    if not config.qkv_bias:
        absent |= {"query_bias", "key_bias", "value_bias"}
    if not config.out_bias:
        absent |= {"out_bias"}
    if not config.qk_norm:
        absent |= {"query_norm", "key_norm"}
    if not config.mlp_bias:
        absent |= {"gate_bias", "up_bias", "down_bias"}
    if not config.gemma:
        absent |= {"attention_post_norm", "mlp_post_norm"}
    found = {name: weight for name, weight in LAYER.items() if name not in absent}
    if config.gemma:  # what the others call post_attention_layernorm stands before the MLP
        found["mlp_norm"] = found["mlp_norm"]._replace(source="pre_feedforward_layernorm.weight")
    return found | (ADAPTERS if config.lora else {}) | (SCALES if config.int8 else {})


def shape_of(weight: Weight, config: DecoderConfig) -> tuple[int, ...]:
    """The shape of one weight (of one layer)."""
    sizes = {
        "vocab": config.vocab,
        "embed": config.width,
        "norm": config.width,
        "heads": config.heads,
        "kv_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "mlp": config.mlp,
        "rank": config.lora,
    }
    return tuple(sizes[axis] for axis in weight.axes)


def dtype_of(name: str, weight: Weight, config: DecoderConfig) -> Any:
    """The type a weight is kept in: frozen matrices in the one in which they are used, if it is the smaller one, or as int8."""
    if config.int8 and name in MATRICES:
        return jnp.dtype(jnp.int8)
    matrix = weight.summed > 0 or "vocab" in weight.axes
    frozen = config.lora and matrix and name not in ADAPTERS
    return frozen_dtype(config) if frozen or name in SCALES else config.param_dtype


def frozen_dtype(config: DecoderConfig) -> Any:
    """The type of what multiplies activations and is not trained."""
    return min(config.param_dtype, config.dtype, key=lambda kind: kind.itemsize)


def initial_weights(
    config: DecoderConfig, key: jax.Array
) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """The outer weights, and those of all layers stacked [L, ...]; the same for both layouts of the layers."""
    outer_key, layer_key = jax.random.split(key)
    outer = _drawn(outer_weights(config), config, (), outer_key)
    plain = config.replace(int8=False)
    layers = _drawn(layer_weights(plain), plain, (config.layers,), layer_key)
    return outer, layers | (_as_int8(layers, config) if config.int8 else {})


def _as_int8(layers: dict[str, jax.Array], config: DecoderConfig) -> dict[str, jax.Array]:
    """The matrices [L, ...] and their scales."""
    found = {}
    for name in MATRICES:
        of = functools.partial(scale_of, summed=LAYER[name].summed, dtype=frozen_dtype(config))
        found[name + SCALE] = jax.vmap(of)(layers[name])
        found[name] = jax.vmap(rounded)(layers[name], found[name + SCALE])
    return found


def _drawn(table: dict[str, Weight], config: DecoderConfig, stack: tuple[int, ...], key: jax.Array) -> dict:
    keys = jax.random.split(key, len(table))
    return {name: _initial(name, table[name], config, stack, k) for name, k in zip(table, keys, strict=True)}


def _initial(
    name: str, weight: Weight, config: DecoderConfig, stack: tuple[int, ...], key: jax.Array
) -> jax.Array:
    """Norms times 1, biases 0, matrices normal with std fan_in^-1/2, by (2L)^-1/2 if they write to the residual. Of an adapter
    the first factor with std (3 fan_in)^-1/2, the second 0."""
    shape, dtype = shape_of(weight, config), config.param_dtype
    if name.endswith("norm"):
        return jnp.full(stack + shape, 0 if config.gemma else 1, dtype)
    if name.endswith(("bias", OUTPUT)):
        return jnp.zeros(stack + shape, dtype)
    std = EMBEDDING_STD if "vocab" in weight.axes else math.prod(shape[: weight.summed]) ** -0.5
    if name in ("out", "down"):
        std *= (2 * config.layers) ** -0.5
    if name.endswith(INPUT):
        std *= 3**-0.5
    return _normal(key, jnp.asarray(std, dtype), stack + shape).astype(dtype_of(name, weight, config))


# One small program a shape, shared by all weights and decoders of that shape: the generator compiles slowly.
@functools.partial(jax.jit, static_argnums=2)
def _normal(key: jax.Array, std: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return jax.random.normal(key, shape, std.dtype) * std


@jax.jit
def unstack(layers: dict[str, jax.Array]) -> list[dict[str, jax.Array]]:
    """Weights stacked [L, ...] as one dictionary a layer."""
    count = len(jax.tree.leaves(layers)[0])
    return [{name: value[layer] for name, value in layers.items()} for layer in range(count)]


def weight_name(path: tuple[Any, ...]) -> str:
    """A leaf's name in the tables, from its path in a parameter tree or an optimizer state like one."""
    names = [entry.key for entry in path if isinstance(entry, DictKey) and isinstance(entry.key, str)]
    return names[-1] if names else ""


def logical_axes(params: Any) -> Any:
    """A tree like `params` with the logical axis names of each weight; stacked ones begin with "layers".

    Also for optimizer states: leaves that mirror a weight get its axes, scalars get ().
    """

    def axes(path: tuple[Any, ...], leaf: Any) -> tuple[str, ...]:
        if leaf.ndim == 0:
            return ()
        name = weight_name(path)
        weight = (OUTER | LAYER | ADAPTERS | SCALES).get(name)
        if weight is None or leaf.ndim - len(weight.axes) not in (0, 1):
            raise ValueError(
                f"{jax.tree_util.keystr(path)} with shape {leaf.shape} is not a weight of entjax's decoder."
            )
        return weight.axes if leaf.ndim == len(weight.axes) else ("layers", *weight.axes)

    return jax.tree_util.tree_map_with_path(axes, params)
