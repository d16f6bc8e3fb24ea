"""The compiled side of a sampler: each function of step.py and state.py jitted once, with the weights as an argument."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from entjax.models import Decoder, init_cache
from entjax.sampler import state as states
from entjax.sampler import step
from entjax.sampler.state import DecodeState, Prefix


class Device(NamedTuple):
    """Jitted functions; `advance` is `decode` with the memory of its argument taken over by its result."""

    prefill: Callable
    some: Callable
    begin: Callable
    refill: Callable
    decode: Callable
    advance: Callable
    append: Callable
    peek: Callable
    fork: Callable
    cut: Callable


def compile_for(model: Decoder, rows_sharding: NamedSharding | None) -> Device:
    """The functions for models of this structure; nothing is compiled before it is called.

    `rows_sharding` places the row axis of everything, e.g. NamedSharding(mesh, PartitionSpec("data")).
    """
    graphdef, config = nnx.graphdef(model), model.config
    pin = functools.partial(_pin, rows_sharding)

    def prefill(params, tokens, length):
        cache = pin(init_cache(config, *tokens.shape))
        return pin(step.prefill(nnx.merge(graphdef, params), tokens, length, cache))

    def begin(prefix, request, slots, shared=False):
        return pin(states.begin(prefix, request, slots, shared))

    def refill(state, prefix, request):
        return pin(states.refill(state, prefix, request))

    def decode(params, state, steps, window):
        return pin(step.decode(nnx.merge(graphdef, params), pin(state), steps, window))

    def append(params, state, tokens, count, new, window):
        return pin(step.append(nnx.merge(graphdef, params), state, tokens, count, new, window))

    def peek(params, state, window):
        return step.peek(nnx.merge(graphdef, params), state, window)

    return Device(
        prefill=jax.jit(prefill),
        some=jax.jit(states.some),
        begin=jax.jit(begin, static_argnames=("slots", "shared")),
        refill=jax.jit(refill, donate_argnames="state"),
        decode=jax.jit(decode, static_argnames="window"),
        advance=jax.jit(decode, static_argnames="window", donate_argnames="state"),
        append=jax.jit(append, static_argnames="window"),
        peek=jax.jit(peek, static_argnames="window"),
        fork=jax.jit(lambda state, rows, key: pin(states.fork(state, rows, key))),
        cut=jax.jit(states.cut),
    )


def row_shards(sharding: NamedSharding | None) -> int:
    """Into how many pieces the row axis is cut."""
    if sharding is None or not sharding.spec or sharding.spec[0] is None:
        return 1
    axes = sharding.spec[0] if isinstance(sharding.spec[0], tuple) else (sharding.spec[0],)
    sizes = dict(sharding.mesh.shape)
    return int(functools.reduce(lambda n, axis: n * sizes[axis], axes, 1))


def _pin(sharding: NamedSharding | None, tree: Any) -> Any:
    """Keep the row axis of a state, prefix or cache where it belongs, and leave the other axes to XLA."""
    if sharding is None or not sharding.spec:
        return tree
    free = PartitionSpec.UNCONSTRAINED

    def place(leaf, axis):
        spec = [sharding.spec[0] if i == axis else free for i in range(leaf.ndim)]
        return jax.lax.with_sharding_constraint(leaf, NamedSharding(sharding.mesh, PartitionSpec(*spec)))

    beside = functools.partial(jax.tree.map, lambda leaf: place(leaf, 1))
    if isinstance(tree, DecodeState):
        placed = states.by_row(lambda leaf: place(leaf, 0), tree)
        return placed.replace(cache=beside(tree.cache))
    if isinstance(tree, Prefix):
        return Prefix(place(tree.tokens, 0), place(tree.length, 0), beside(tree.cache))
    return beside(tree)
