"""Grouped-query attention and the root-mean-square norm, head-major, with statistics in at least float32."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from entjax import attention_entropy
from entjax.models import cache as caches
from entjax.models.cache import Cache
from entjax.models.config import DecoderConfig, wide
from entjax.models.lora import product
from entjax.models.rope import rotate
from entjax.models.shared import SharedPlace, mix, mix_behind
from entjax.unit_axes import without_unit_axes


class Place(NamedTuple):
    """Where the tokens of a call stand and what they may look at; the same for all layers of a kind."""

    slots: jax.Array  # [B, T] of the cache
    cos: jax.Array  # [B, 1, T, h / 2]
    sin: jax.Array
    mask: jax.Array  # [B or 1, T, S] bool, True where query t may look at key s
    prompt: jax.Array | None  # [B, T or 1, W] bool, the same for the keys of a shared prompt


class Memory(NamedTuple):
    """The cache that a layer writes to and reads from, if any."""

    cache: Cache | None
    layer: Any  # int when unrolled, traced in a scan
    window: int | None


def along_last(vector: jax.Array, x: jax.Array) -> jax.Array:
    """A vector [h], in the type of x and with leading axes of length one up to the rank of x."""
    return vector.astype(x.dtype).reshape((1,) * (x.ndim - 1) + vector.shape)


def rms_norm(x: jax.Array, scale: jax.Array, config: DecoderConfig) -> jax.Array:
    """x / sqrt(mean(x^2) + eps) * scale over the last axis; Gemma multiplies by 1 + scale, before it rounds."""

    def norm(x):
        y = x.astype(wide(x.dtype))
        y = y * jax.lax.rsqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True) + config.norm_eps)
        if config.gemma:
            return (y * (1 + along_last(scale, y))).astype(x.dtype)
        return y.astype(x.dtype) * along_last(scale, x)

    return without_unit_axes(norm, x)


def heads_of(x: jax.Array, weights: dict[str, jax.Array], name: str, config: DecoderConfig) -> jax.Array:
    """x [B, T, D] times the matrix `name` [D, H, h], with its bias if any, head-major: [B, H, T, h]."""
    y = product("btd,dnh->btnh", x, weights, name, config).swapaxes(1, 2)
    bias = weights.get(name + "_bias")
    return y if bias is None else y + bias.astype(x.dtype)[None, :, None, :]


def probabilities(q: jax.Array, k: jax.Array, mask: jax.Array) -> jax.Array:
    """softmax(q k / sqrt(h)) [B, Hkv, G, T, S] over the allowed keys; G query heads share a key head."""
    b, heads, t, h = q.shape
    grouped = q.reshape(b, k.shape[1], heads // k.shape[1], t, h)
    scores = jnp.einsum("bkgth,bksh->bkgts", grouped, k, preferred_element_type=wide(q.dtype)) * h**-0.5
    # The lowest number instead of -inf: a row that may look at nothing (a padding token) stays finite.
    scores = jnp.where(mask[:, None, None], scores, jnp.finfo(scores.dtype).min)
    return without_unit_axes(jax.nn.softmax, scores)


def attention(
    weights: dict[str, jax.Array],
    x: jax.Array,
    place: Place | SharedPlace,
    config: DecoderConfig,
    memory: Memory,
) -> tuple[jax.Array, Cache | None, jax.Array | None]:
    """Self-attention of the normed x [B, T, D]; also the cache with the new keys, and the probabilities where they exist as
    one array (not where prompts are shared)."""
    q, k, v = (heads_of(x, weights, name, config) for name in ("query", "key", "value"))
    if config.qk_norm:
        q = rms_norm(q, weights["query_norm"], config)
        k = rms_norm(k, weights["key_norm"], config)
    q, k = rotate(q, place.cos, place.sin), rotate(k, place.cos, place.sin)
    cache = memory.cache
    if cache is not None:
        cache = caches.write(cache, memory.layer, k, v, place.slots)
        k, v = (y.astype(x.dtype) for y in caches.read(cache, memory.layer, memory.window))
    if isinstance(place, SharedPlace):
        p, mixed = None, mix(q, k, v, place)
    elif cache is not None and cache.prompts is not None:
        first = (y.astype(x.dtype) for y in caches.read(cache.prompts, memory.layer, None))
        p, mixed = mix_behind(q, (k, v), place.mask, tuple(first), place.prompt)
    else:
        p = probabilities(q, k, place.mask)
        mixed = jnp.einsum("bkgts,bksh->bkgth", p.astype(x.dtype), v).reshape(q.shape)
    y = product("btnh,nhd->btd", mixed.swapaxes(1, 2), weights, "out", config)
    return (y + along_last(weights["out_bias"], y) if config.out_bias else y), cache, p


def entropy_of_attention(p: jax.Array) -> jax.Array:
    """Entropy in nats [B, T] of the attention averaged over all heads, from p [B, Hkv, G, T, S]."""
    return attention_entropy.raw(jnp.mean(p, axis=(1, 2)))
