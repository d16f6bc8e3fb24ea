"""The key/value cache: one array each for keys and values, slot s of a row holds position s of that row."""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from entjax.models.config import DecoderConfig, check_length

CACHE_AXES = ("layers", "batch", "kv_heads", "slots", "head_dim")

# (layer, slot) of each new token [B, T], with the rows as a batch axis on both sides: a sharded row axis stays where it is,
# while an index array for the rows makes XLA gather the keys of all devices before it writes them.
_BY_ROW = jax.lax.ScatterDimensionNumbers(
    update_window_dims=(2, 3),
    inserted_window_dims=(0, 3),
    operand_batching_dims=(1,),
    scatter_dims_to_operand_dims=(0, 3),
    scatter_indices_batching_dims=(0,),
)


@flax.struct.dataclass
class Cache:
    """Keys and values [L, B, Hkv, S, h]: L layers, B rows, S slots."""

    k: jax.Array
    v: jax.Array


def init_cache(config: DecoderConfig, batch: int, slots: int, dtype: Any = None) -> Cache:
    """An empty cache for `batch` rows of at most `slots` tokens, in the compute type by default."""
    if batch < 1 or slots < 1:
        raise ValueError(f"A cache needs at least one row and one slot; got batch {batch} and slots {slots}.")
    check_length(config, slots)
    shape = (config.layers, batch, config.kv_heads, slots, config.head_dim)
    dtype = config.dtype if dtype is None else dtype
    return Cache(k=jnp.zeros(shape, dtype), v=jnp.zeros(shape, dtype))


def take_rows(cache: Cache, rows: jax.Array) -> Cache:
    """The cache of the given rows, in that order: a row named twice is forked, one not named is dropped."""
    return jax.tree.map(lambda x: jnp.take(x, rows, axis=1), cache)


def write(cache: Cache, layer: Any, k: jax.Array, v: jax.Array, positions: jax.Array) -> Cache:
    """Puts k, v [B, Hkv, T, h] of a layer into the slots `positions` [B, T], except those outside [0, S)."""
    slots = cache.k.shape[3]
    # An index below zero would count from the end, so it is moved past the end, where it is dropped.
    slot = jnp.where(positions < 0, jnp.asarray(slots, positions.dtype), positions)
    where = jnp.stack([jnp.full_like(slot, layer), slot], axis=-1)
    return jax.tree.map(
        lambda old, new: jax.lax.scatter(
            old,
            where,
            new.transpose(0, 2, 1, 3).astype(old.dtype),
            _BY_ROW,
            mode=jax.lax.GatherScatterMode.FILL_OR_DROP,
        ),
        cache,
        Cache(k=k, v=v),
    )


def read(cache: Cache, layer: Any, window: int | None) -> tuple[jax.Array, jax.Array]:
    """Keys and values [B, Hkv, window, h] of one layer: the first `window` slots, or all."""
    size = (1, *cache.k.shape[1:3], window or cache.k.shape[3], cache.k.shape[4])
    start = (layer, *(jnp.zeros((), jnp.int32),) * 4) if isinstance(layer, jax.Array) else (layer, 0, 0, 0, 0)
    k, v = (jax.lax.dynamic_slice(x, start, size)[0] for x in (cache.k, cache.v))
    return k, v
