"""Where arrays live: logical axes of weights and activations mapped to the axes of a device mesh, whatever its shape and names.

    mesh = make_mesh({"fsdp": 4, "tensor": 2})        # -1 takes what is left
    layout = Layout(mesh, ShardingRules())
    params = jax.jit(make, out_shardings=layout.weights(shapes))()      # created in pieces, never whole on one device

A logical axis names one or several mesh axes. The rule for an array: go through its axes from the left; take from the named
mesh axes, in their order, those that the mesh has, that no axis of this array took before, and whose size (times that of the
ones already taken) divides the dimension. Everything else stays whole on every device.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from entjax.models import logical_axes
from entjax.packing import Pack
from entjax.types import Rollout

Axes = tuple[str, ...]


class MeshError(ValueError):
    """A mesh that does not fit the devices, the rules or the run; the message says what to change."""


@dataclasses.dataclass(frozen=True)
class ShardingRules:
    """Mesh axes of every logical axis. The defaults: rows over `replica` and `fsdp`, weights cut along their width over `fsdp`
    (gathered layer by layer where they are used) and along heads, MLP and vocabulary over `tensor`."""

    batch: Axes = ("replica", "fsdp")  # rows of a batch; what is not named here never splits rows
    sequence: Axes = ("sequence",)  # tokens of a row, in the hidden states
    width: Axes = ()  # of the hidden states
    vocab: Axes = ("tensor",)  # embedding and head
    embed: Axes = ("fsdp",)  # the width as an axis of a weight
    heads: Axes = ("tensor",)
    kv_heads: Axes = ("tensor",)
    head_dim: Axes = ()
    mlp: Axes = ("tensor",)
    norm: Axes = ()
    rank: Axes = ()  # of adapters
    layers: Axes = ()

    def named(self, **names: str) -> ShardingRules:
        """The same rules for a mesh with other axis names: `ShardingRules().named(fsdp="data", tensor="model")`."""
        change = lambda axes: tuple(names.get(axis, axis) for axis in axes)
        return ShardingRules(**{f.name: change(getattr(self, f.name)) for f in dataclasses.fields(self)})

    def without(self, *axes: str) -> ShardingRules:
        """Weights that are not cut along these mesh axes; rows still are. For a sampler that wants them whole."""
        rows = ("batch", "sequence", "width")
        keep = lambda name, value: (
            value if name in rows else tuple(axis for axis in value if axis not in axes)
        )
        return ShardingRules(
            **{f.name: keep(f.name, getattr(self, f.name)) for f in dataclasses.fields(self)}
        )

    def mesh_axes(self) -> set[str]:
        """Every mesh axis that some rule names."""
        return {axis for f in dataclasses.fields(self) for axis in getattr(self, f.name)}


def mesh_sizes(shape: Mapping[str, int], devices: int) -> dict[str, int]:
    """The sizes of the mesh axes for so many devices, -1 filled in; a sentence when they do not fit."""
    given = ", ".join(f"{name}:{size}" for name, size in shape.items())
    if not shape:
        raise MeshError("The mesh has no axes: name at least one, e.g. mesh=fsdp:-1.")
    if any(size < 1 and size != -1 for size in shape.values()) or list(shape.values()).count(-1) > 1:
        raise MeshError(
            f"mesh={given}: sizes are whole numbers from 1, and at most one is -1 (all that is left)."
        )
    fixed = math.prod(size for size in shape.values() if size != -1)
    if devices % fixed or (-1 not in shape.values() and fixed != devices):
        raise MeshError(
            f"mesh={given} is for {fixed}{' times something' if -1 in shape.values() else ''} devices, but there are {devices}: "
            "change its sizes, or write -1 for one of them."
        )
    return {name: devices // fixed if size == -1 else size for name, size in shape.items()}


def make_mesh(shape: Mapping[str, int], devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh over all devices (or the given ones), axes of type Auto: the compiler inserts the communication."""
    devices = jax.devices() if devices is None else list(devices)
    sizes = mesh_sizes(shape, len(devices))
    if devices[0].platform == "tpu":
        grid = mesh_utils.create_device_mesh(tuple(sizes.values()), devices, allow_split_physical_axes=True)
    else:
        # In the order of the processes, so that the rows of a process lie together.
        order = sorted(devices, key=lambda d: (d.process_index, d.id))
        grid = np.asarray(order).reshape(tuple(sizes.values()))
    return Mesh(grid, tuple(sizes), axis_types=(AxisType.Auto,) * len(sizes))


class Layout(NamedTuple):
    """A mesh with its rules: the sharding of everything in a run."""

    mesh: Mesh
    rules: ShardingRules

    def spec(self, axes: Sequence[str | None], shape: Sequence[int]) -> PartitionSpec:
        """The mesh axes of an array with these logical axes; see the top of this file for the rule."""
        taken: set[str] = set()
        entries = []
        for axis, size in zip(axes, shape, strict=True):
            mine: list[str] = []
            for name in () if axis is None else getattr(self.rules, axis):
                parts = math.prod(self.mesh.shape[n] for n in mine) * self.mesh.shape.get(name, 0)
                if name in self.mesh.shape and name not in taken and size % parts == 0:
                    mine.append(name)
            taken |= set(mine)
            entries.append(None if not mine else mine[0] if len(mine) == 1 else tuple(mine))
        return PartitionSpec(*entries)

    def of(self, axes: Sequence[str | None], shape: Sequence[int]) -> NamedSharding:
        return NamedSharding(self.mesh, self.spec(axes, shape))

    @property
    def whole(self) -> NamedSharding:
        """The same value on every device."""
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def row_axes(self) -> Axes:
        """The mesh axes over which rows are spread."""
        return tuple(name for name in self.rules.batch if name in self.mesh.shape)

    @property
    def row_shards(self) -> int:
        """Into how many pieces the rows of a batch are cut."""
        return math.prod(self.mesh.shape[name] for name in self.row_axes)

    @property
    def rows(self) -> NamedSharding:
        """The first axis of an array over the row axes."""
        return NamedSharding(self.mesh, PartitionSpec(self.row_axes or None))

    @property
    def families(self) -> NamedSharding:
        """The arrays of a pack's places: the third axis like rows."""
        return NamedSharding(self.mesh, PartitionSpec(None, None, *self.rows.spec))

    def weights(self, params: Any) -> Any:
        """A tree like `params` (arrays or shapes) of shardings."""
        return jax.tree.map(lambda leaf, axes: self.of(axes, leaf.shape), params, logical_axes(params))

    def rollout(self, rollout: Rollout) -> Rollout:
        """A rollout from the host, the same on every process, with its rows on the devices that own them."""
        batch = rollout.tokens.shape[0]

        def place(x):
            if isinstance(x, jax.Array) and isinstance(x.sharding, NamedSharding):
                return x  # came from the mesh
            x = np.asarray(x)
            sharding = self.rows if x.ndim and x.shape[0] == batch else self.whole
            return jax.make_array_from_process_local_data(sharding, x, x.shape)

        return jax.tree.map(place, rollout)

    def pack(self, pack: Pack | None) -> Pack | None:
        """A pack from the host, the same on every process, with its families on the devices whose rows they hold."""
        if pack is None:
            return None
        put = lambda sharding: lambda x: jax.make_array_from_process_local_data(sharding, x, x.shape)
        return Pack(jax.tree.map(put(self.families), pack.places), put(self.whole)(pack.count))

    def constrain(self, x: jax.Array, axes: Sequence[str]) -> jax.Array:
        """Pin the layout of hidden states inside a compiled function."""
        logical = tuple("width" if axis == "embed" else axis for axis in axes)
        return jax.lax.with_sharding_constraint(x, self.of(logical, x.shape))

    def create(self, make: Callable[[], nnx.Module]) -> nnx.Module:
        """The module that `make` makes, its weights drawn in pieces on the devices that keep them."""
        graphdef, params = nnx.split(nnx.eval_shape(make))
        return nnx.merge(
            graphdef, jax.jit(lambda: nnx.split(make())[1], out_shardings=self.weights(params))()
        )

    def check(self, config: Any) -> None:
        """Refuse, before anything is compiled, a mesh that the rules or the number of rows of a run do not fit."""
        unknown = [n for n, size in self.mesh.shape.items() if size > 1 and n not in self.rules.mesh_axes()]
        if unknown:
            raise MeshError(
                f"No sharding rule uses the mesh axis '{unknown[0]}', so its devices would all do the same work: use the axes "
                f"{', '.join(sorted(self.rules.mesh_axes()))}, or give sharding=ShardingRules().named(fsdp='{unknown[0]}')."
            )
        rows = config.rows // (config.minibatches * config.microbatches)
        if rows % self.row_shards:
            raise MeshError(
                f"rows of a batch / minibatches / microbatches = {rows} rows cannot be shared by {self.row_shards} devices "
                f"(mesh axes {' x '.join(self.row_axes)}): make it a multiple, or give devices to another mesh axis."
            )


def mirror(state: Any, params: Any, shardings: Any) -> Any:
    """Shardings for a state made from `params`: a leaf whose path ends in the path of a weight and that has its shape is cut
    like it (moments, averages, the reference policy); all others are whole on every device."""
    flat = jax.tree_util.tree_flatten_with_path(params)[0]
    by_path = {
        tuple(map(_key, path)): (leaf.shape, sharding)
        for (path, leaf), sharding in zip(flat, jax.tree.leaves(shardings), strict=True)
    }
    whole = NamedSharding(jax.tree.leaves(shardings)[0].mesh, PartitionSpec())

    def place(path, leaf):
        names = tuple(map(_key, path))
        for start in range(len(names)):
            shape, sharding = by_path.get(names[start:], (None, None))
            if sharding is not None and shape == leaf.shape:
                return sharding
        return whole

    return jax.tree_util.tree_map_with_path(place, state)


def beside(make: Callable[[Any], Any], params: Any) -> Any:
    """make(params), e.g. an optimizer's state, every piece made on the device that holds the piece of the weight it belongs to.

    Called plainly, the zeros of an optimizer would all be made on one device: such a run trains, and cannot be restored.
    """
    shardings = jax.tree.map(lambda x: x.sharding, params)
    if not isinstance(jax.tree.leaves(shardings)[0], NamedSharding):
        return make(params)
    return jax.jit(make, out_shardings=mirror(jax.eval_shape(make, params), params, shardings))(params)


def resharder(target: Layout, params: Any, dtype: Any = None) -> Callable[[Any], Any]:
    """params -> the same weights laid out by `target`, as `dtype` if given (whole numbers stay): from the trainer's layout to
    the sampler's."""

    cast = lambda tree: jax.tree.map(lambda x: x.astype(sampled_as(x, dtype)), tree)
    return jax.jit(cast, out_shardings=target.weights(params))


def sampled_as(x: Any, dtype: Any) -> Any:
    """The type in which a sampler of this compute type keeps a weight."""
    return x.dtype if dtype is None or x.dtype == jnp.int8 else jnp.dtype(dtype)


def _key(entry: Any) -> Any:
    """One step of a path as a value that is equal in a parameter tree and in an optimizer state made from it."""
    for name in ("key", "name", "idx"):
        value = getattr(entry, name, None)
        if value is not None:
            return value
    return str(entry)
