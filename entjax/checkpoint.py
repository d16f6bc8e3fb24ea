"""Checkpoints with Orbax: everything a run needs to go on exactly, complete or not there at all.

Arrays are saved under flat names ("params/...", "signal_state/per_step/siren/anchor"), the host's side (data position, log
positions, config) as JSON. Nothing is pickled.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from entjax.step import TrainState

FORMAT = 1


class CheckpointFault(ValueError):
    """A checkpoint cannot be used; the message says why and what to do."""


def flatten(state: TrainState) -> dict[str, jax.Array]:
    """The arrays of a state by name; random keys as their raw data."""
    out = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        out[_name(path)] = leaf
    return out


def unflatten(like: TrainState, arrays: dict[str, jax.Array]) -> TrainState:
    """A state of the structure of `like` with the saved arrays."""
    leaves = []
    paths, structure = jax.tree_util.tree_flatten_with_path(like)
    for path, leaf in paths:
        value = arrays[_name(path)]
        is_key = isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        leaves.append(jax.random.wrap_key_data(value, impl=jax.random.key_impl(leaf)) if is_key else value)
    return jax.tree.unflatten(structure, leaves)


def _name(path) -> str:
    parts = []
    for key in path:
        for attribute in ("key", "name", "idx"):
            if getattr(key, attribute, None) is not None:
                parts.append(str(getattr(key, attribute)))
                break
    return "/".join(part for part in parts if part != "value")


class Checkpoints:
    """The checkpoints of a run directory. Saving is asynchronous; `close` waits for it."""

    def __init__(self, folder: Any, *, keep: int = 2):
        """`folder`: a Path, or an epath.Path in a bucket."""
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, enable_async_checkpointing=True, step_prefix="step", step_format_fixed_length=8
        )
        handlers = {"state": ocp.StandardCheckpointHandler(), "host": ocp.JsonCheckpointHandler()}
        self._manager = ocp.CheckpointManager(
            folder.absolute() if isinstance(folder, Path) else folder, options=options, item_handlers=handlers
        )

    def save(self, step: int, state: TrainState, host: dict[str, Any], *, wait: bool = False) -> None:
        """Write the state after `step` rollout batches; the files appear under their name only when complete."""
        if step in self._manager.all_steps():
            return
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(flatten(state)), host=ocp.args.JsonSave({"format": FORMAT, **host})
        )
        self._manager.save(step, args=args)
        if wait:
            self._manager.wait_until_finished()

    def steps(self) -> list[int]:
        """The steps that can be restored, oldest first."""
        return sorted(self._manager.all_steps())

    def host(self, step: int) -> dict[str, Any]:
        """The host's side of a checkpoint."""
        restored = self._manager.restore(step, args=ocp.args.Composite(host=ocp.args.JsonRestore()))
        return restored["host"]

    def restore(self, step: int, like: TrainState) -> TrainState:
        """The state of a checkpoint, placed and sharded like `like`."""
        wanted = {name: _abstract(leaf) for name, leaf in flatten(like).items()}
        try:
            saved = self._shapes(step)
        except Exception as error:
            raise CheckpointFault(
                f"The checkpoint of step {step} cannot be read ({_first_line(error)})."
            ) from error
        _compare(step, wanted, saved)
        restored = self._manager.restore(
            step, args=ocp.args.Composite(state=ocp.args.StandardRestore(wanted))
        )
        return unflatten(like, restored["state"])

    def _shapes(self, step: int) -> dict[str, tuple[int, ...]]:
        """Names and shapes in a checkpoint, without reading the arrays."""
        tree = self._manager.item_metadata(step)["state"]
        tree = tree.tree if hasattr(tree, "tree") else tree
        return {name: tuple(meta.shape) for name, meta in tree.items()}

    def close(self) -> None:
        self._manager.wait_until_finished()
        self._manager.close()


def _abstract(leaf) -> jax.ShapeDtypeStruct:
    leaf = leaf if isinstance(leaf, (jax.Array, jax.ShapeDtypeStruct)) else np.asarray(leaf)
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None))


def _compare(step: int, wanted: dict, saved: dict) -> None:
    missing, extra = sorted(wanted.keys() - saved.keys()), sorted(saved.keys() - wanted.keys())
    if missing or extra:
        listed = lambda names: (
            ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        )
        parts = [f"lacks {listed(missing)}"] * bool(missing) + [
            f"holds {listed(extra)} that this run does not use"
        ] * bool(extra)
        raise CheckpointFault(
            f"The checkpoint of step {step} {' and '.join(parts)}: it was written by another model, optimizer or objective. "
            "Start a new run directory, or use the config.py that lies beside the checkpoint."
        )
    for name, leaf in wanted.items():
        if tuple(leaf.shape) != saved[name]:
            raise CheckpointFault(
                f"{name} has shape {saved[name]} in the checkpoint of step {step}, but {tuple(leaf.shape)} in this run: "
                "the model's sizes differ."
            )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
