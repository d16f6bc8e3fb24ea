"""The key/value cache: slot s of a row holds position s of that row.

Scanned layers share one array each for keys and values. Layers that are unrolled have arrays of their own, which a step reads
where they lie, and their keys have the slots last: q k^T then contracts over an axis that is not the last one of the keys, where
a CPU would first lay out all of them anew (a third of the time for a token).

While all samples of a prompt are decoded together they may share its keys and values: slots of their own begin behind it.
"""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from entjax.models.config import DecoderConfig

VALUE_SLOTS = 3  # the axis of the slots in v


@flax.struct.dataclass
class Cache:
    """B rows, S slots. Scanned: one k and v [L, B, Hkv, S, h]. Unrolled: for each layer a k [1, B, Hkv, h, S] and a v
    [1, B, Hkv, S, h]. The rows are always axis 1.

    With `prompts`, a cache of P rows, the rows p B / P to (p + 1) B / P - 1 go on behind the `known` first slots of row p there,
    and slot s holds position known + s.
    """

    k: tuple[jax.Array, ...]
    v: tuple[jax.Array, ...]
    key_slots: int = flax.struct.field(pytree_node=False)  # the axis of the slots in k
    prompts: Cache | None = None
    known: jax.Array | None = None  # [1, P]

    @property
    def slots(self) -> int:
        return self.v[0].shape[VALUE_SLOTS]


def init_cache(config: DecoderConfig, batch: int, slots: int, dtype: Any = None) -> Cache:
    """An empty cache for `batch` rows of at most `slots` tokens, in the compute type by default."""
    if batch < 1 or slots < 1:
        raise ValueError(f"A cache needs at least one row and one slot; got batch {batch} and slots {slots}.")
    dtype = config.dtype if dtype is None else dtype
    zeros = lambda layers, *last: jnp.zeros((layers, batch, config.kv_heads, *last), dtype)
    long, wide = (slots, config.head_dim), (config.head_dim, slots)
    if config.scan_layers:
        return Cache((zeros(config.layers, *long),), (zeros(config.layers, *long),), VALUE_SLOTS)
    own = range(config.layers)
    return Cache(tuple(zeros(1, *wide) for _ in own), tuple(zeros(1, *long) for _ in own), VALUE_SLOTS + 1)


def take_rows(cache: Cache, rows: jax.Array) -> Cache:
    """The cache of the given rows, in that order: a row named twice is forked, one not named is dropped. Where prompts were
    shared every row gets its own copy, and slot s holds position s."""

    def take(tree: Any, rows: jax.Array) -> Any:
        return jax.tree.map(lambda x: jnp.take(x, rows, axis=1), tree)

    if cache.prompts is None:
        return take(cache, rows)
    prompt = rows // _rows_a_prompt(cache)
    first, own = take(cache.prompts, prompt), take(cache.replace(prompts=None, known=None), rows)
    known, slot = cache.known[0][prompt], jnp.arange(first.slots + own.slots)
    behind = jnp.minimum(first.slots + slot - known[:, None], slot[-1])
    source = jnp.where(slot < known[:, None], slot, behind)  # [rows, slots] in both, one after the other

    def join(x: jax.Array, y: jax.Array, axis: int) -> jax.Array:
        other = [i for i in range(x.ndim) if i not in (1, axis)]
        both = jnp.concatenate([x, y], axis=axis)
        return jnp.take_along_axis(both, jnp.expand_dims(source, other), axis=axis)

    return own.replace(
        k=tuple(join(x, y, own.key_slots) for x, y in zip(first.k, own.k, strict=True)),
        v=tuple(join(x, y, VALUE_SLOTS) for x, y in zip(first.v, own.v, strict=True)),
    )


def share(prompts: Cache, known: jax.Array, rows: int, slots: int) -> Cache:
    """An empty cache of `rows` rows that go on behind the first `known` [P] slots of the prompts, as many behind each."""

    def empty(x: jax.Array, axis: int) -> jax.Array:
        sizes = {1: rows, axis: slots}
        return jnp.zeros([sizes.get(i, size) for i, size in enumerate(x.shape)], x.dtype)

    return _by_axis(empty, prompts).replace(prompts=prompts, known=known[None])


def slots_of(cache: Cache, positions: jax.Array) -> jax.Array:
    """Where tokens at these positions [B, T] belong."""
    if cache.prompts is None:
        return positions
    return positions - known_of(cache)[:, None]


def known_of(cache: Cache) -> jax.Array:
    """[B]: how many slots of its shared prompt each row goes on behind."""
    return jnp.repeat(cache.known[0], _rows_a_prompt(cache))


def _rows_a_prompt(cache: Cache) -> int:
    return cache.v[0].shape[1] // cache.known.shape[1]


def widen(cache: Cache, more: int) -> Cache:
    """The cache with `more` empty slots behind the others."""

    def pad(x: jax.Array, axis: int) -> jax.Array:
        return jnp.pad(x, [(0, more if i == axis else 0) for i in range(x.ndim)])

    return _by_axis(pad, cache)


def narrow(cache: Cache, slots: int) -> Cache:
    """The first slots alone, so that a loop over tokens need not cut them out for every token."""
    return _by_axis(lambda x, axis: jax.lax.slice_in_dim(x, 0, slots, axis=axis), cache)


def put_back(cache: Cache, first: Cache) -> Cache:
    """The cache with its first slots replaced."""
    if first.slots == cache.slots:
        return first
    put = lambda whole, part: jax.lax.dynamic_update_slice(whole, part, (0,) * 5)
    return cache.replace(k=jax.tree.map(put, cache.k, first.k), v=jax.tree.map(put, cache.v, first.v))


def write(cache: Cache, layer: Any, k: jax.Array, v: jax.Array, slots: jax.Array) -> Cache:
    """Puts k, v [B, Hkv, T, h] of a layer into the slots [B, T], except those outside [0, S)."""
    # An index below zero would count from the end, so it is moved past the end, where it is dropped.
    slot = jnp.where(slots < 0, jnp.asarray(cache.slots, slots.dtype), slots)
    block, index = _place(layer)
    to = jnp.stack([jnp.full_like(slot, index), slot], axis=-1)

    def put(arrays: tuple[jax.Array, ...], new: jax.Array, axis: int) -> tuple[jax.Array, ...]:
        old, new = arrays[block], new.transpose(0, 2, 1, 3).astype(arrays[block].dtype)
        drop = jax.lax.GatherScatterMode.FILL_OR_DROP
        written = jax.lax.scatter(old, to, new, _by_row(axis), mode=drop)
        return (*arrays[:block], written, *arrays[block + 1 :])

    return cache.replace(k=put(cache.k, k, cache.key_slots), v=put(cache.v, v, VALUE_SLOTS))


def read(cache: Cache, layer: Any, window: int | None) -> tuple[jax.Array, jax.Array]:
    """Keys and values [B, Hkv, window, h] of one layer: the first `window` slots, or all."""
    block, index = _place(layer)

    def get(x: jax.Array, axis: int) -> jax.Array:
        size = [1, *x.shape[1:]]
        size[axis] = window or size[axis]
        start = (jnp.asarray(index, jnp.int32), *(jnp.zeros((), jnp.int32),) * 4)
        static = isinstance(index, int)
        return (x if static and tuple(size) == x.shape else jax.lax.dynamic_slice(x, start, size))[0]

    k, v = get(cache.k[block], cache.key_slots), get(cache.v[block], VALUE_SLOTS)
    return k if cache.key_slots == VALUE_SLOTS else k.swapaxes(2, 3), v


def _place(layer: Any) -> tuple[int, Any]:
    """(array, index in it): unrolled layers have numbers and arrays of their own, the number of a scanned one is traced."""
    return (0, layer) if isinstance(layer, jax.Array) else (layer, 0)


def _by_axis(f: Any, cache: Cache) -> Cache:
    """f(array, axis of its slots) on every array."""
    return cache.replace(
        k=tuple(f(x, cache.key_slots) for x in cache.k), v=tuple(f(x, VALUE_SLOTS) for x in cache.v)
    )


def _by_row(slots: int) -> jax.lax.ScatterDimensionNumbers:
    """(layer, slot) of each new token [B, T], with the rows as a batch axis on both sides: a sharded row axis stays where it is,
    while an index array for the rows makes XLA gather the keys of all devices before it writes them."""
    return jax.lax.ScatterDimensionNumbers(
        update_window_dims=(2, 3),
        inserted_window_dims=(0, slots),
        operand_batching_dims=(1,),
        scatter_dims_to_operand_dims=(0, slots),
        scatter_indices_batching_dims=(0,),
    )
