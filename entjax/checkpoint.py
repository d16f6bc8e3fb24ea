"""Checkpoints with Orbax: everything a run needs to go on exactly, complete or not there at all.

Arrays are saved under flat names ("params/...", "signal_state/per_step/siren/anchor"), the host's side (data position, log
positions, config) as JSON. Nothing is pickled. Fingerprints of both lie in the JSON, because a changed byte in an array or in
JSON would otherwise be read without complaint. Weights that adapters leave as they are (models/lora.py) are not written where
they came from a folder: a run finds them there again, and their fingerprints tell whether they are the same.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from entjax import distributed
from entjax.fingerprint import digest, fingerprints
from entjax.models.lora import split, together
from entjax.step import TrainState

FORMAT = 3  # 1 had no fingerprints, 2 held frozen weights
SET_ASIDE = "damaged_"


class CheckpointFault(ValueError):
    """A checkpoint cannot be used; the message says why and what to do."""


def flatten(state: Any) -> dict[str, jax.Array]:
    """The arrays of a state, or of a part of one, by name; random keys as their raw data."""
    out = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        if _name(path) in out:
            raise ValueError(
                f"Two arrays of the state would be called '{_name(path)}' in a checkpoint, which leaves out 'value': rename one."
            )
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
        self._folder = folder.absolute() if isinstance(folder, Path) else folder
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, enable_async_checkpointing=True, step_prefix="step", step_format_fixed_length=8
        )
        handlers = {"state": ocp.StandardCheckpointHandler(), "host": ocp.JsonCheckpointHandler()}
        self._manager = ocp.CheckpointManager(self._folder, options=options, item_handlers=handlers)

    def save(
        self, step: int, state: TrainState, host: dict[str, Any], *, refound: bool = False, wait: bool = False
    ) -> None:
        """Write the state after `step` rollout batches; the files appear under their name only when complete. `refound`: frozen
        weights lie in the model's folder and need not be written."""
        if step in self._manager.all_steps():
            return
        trained, frozen = split(state.params) if refound else (state.params, None)
        arrays = flatten(state.replace(params=trained))
        host = {
            "format": FORMAT,
            "arrays": fingerprints(arrays),
            "frozen": fingerprints(flatten(frozen)),
            **host,
        }
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(arrays),
            host=ocp.args.JsonSave({**host, "digest": digest(host)}),
        )
        with self._written():
            self._manager.save(step, args=args)
            if wait:
                self._manager.wait_until_finished()

    @contextlib.contextmanager
    def _written(self) -> Iterator[None]:
        """Say what is left when a checkpoint cannot be written; of one that is written in the background the next call tells."""
        try:
            yield
        except (OSError, ValueError, RuntimeError) as error:
            raise CheckpointFault(
                f"A checkpoint could not be written to {self._folder} ({_first_line(error)[-300:]}). Is the disk full or gone? "
                "The checkpoints of earlier steps are whole: make room and go on with --resume."
            ) from error

    def set_aside(self, step: int) -> None:
        """Rename a checkpoint that cannot be used: it would stand in the way of the new one of the same step."""
        if distributed.first():
            for path in self._folder.iterdir():
                if path.name.removeprefix("step_") == f"{step:08}":
                    path.rename(self._folder / f"{SET_ASIDE}{path.name}")
        distributed.barrier(f"set aside {step}")
        self._manager.reload()

    def steps(self) -> list[int]:
        """The steps that can be restored, oldest first."""
        return sorted(self._manager.all_steps())

    def host(self, step: int) -> dict[str, Any]:
        """The host's side of a checkpoint."""
        try:
            host = self._manager.restore(step, args=ocp.args.Composite(host=ocp.args.JsonRestore()))["host"]
        except Exception as error:
            raise CheckpointFault(
                f"The checkpoint of step {step} cannot be read ({_first_line(error)[:200]})."
            ) from error
        known = host.pop("digest", None)
        if host.get("format") != 1 and known != digest(host):
            raise CheckpointFault(
                f"The checkpoint of step {step} is damaged: its JSON is not what was written."
            )
        return host

    def restore(self, step: int, like: TrainState) -> TrainState:
        """The state of a checkpoint, placed and sharded like `like`, with its frozen weights where they were not written."""
        host = self.host(step)
        trained, frozen = split(like.params) if host.get("frozen") else (like.params, None)
        like = like.replace(params=trained)
        wanted = {name: _abstract(leaf) for name, leaf in flatten(like).items()}
        try:
            saved = self._shapes(step)
        except Exception as error:
            raise CheckpointFault(
                f"The checkpoint of step {step} cannot be read ({_first_line(error)[:200]})."
            ) from error
        _compare(step, wanted, saved)
        try:
            args = ocp.args.Composite(state=ocp.args.StandardRestore(wanted))
            restored = self._manager.restore(step, args=args)
        except Exception as error:  # Orbax and tensorstore raise a dozen kinds
            raise CheckpointFault(
                f"The checkpoint of step {step} cannot be read ({_first_line(error)[:200]})."
            ) from error
        bad = _changed(host.get("arrays"), restored["state"])
        if bad:
            raise CheckpointFault(f"The checkpoint of step {step} is damaged: {bad} not what was written.")
        bad = _changed(host.get("frozen"), flatten(frozen))
        if bad:
            raise CheckpointFault(
                f"The checkpoint of step {step} holds adapters of another model: {bad} not the weights that the run began with. "
                "Set model to the folder that it was trained from, unchanged, with dtype and int8 as they were."
            )
        state = unflatten(like, restored["state"])
        return state.replace(params=together(state.params, frozen))

    def _shapes(self, step: int) -> dict[str, tuple[int, ...]]:
        """Names and shapes in a checkpoint, without reading the arrays."""
        tree = self._manager.item_metadata(step)["state"]
        tree = tree.tree if hasattr(tree, "tree") else tree
        return {name: tuple(meta.shape) for name, meta in tree.items()}

    def close(self) -> None:
        try:
            with self._written():
                self._manager.wait_until_finished()
        finally:
            with contextlib.suppress(Exception):  # it tells the same again
                self._manager.close()


def _abstract(leaf) -> jax.ShapeDtypeStruct:
    leaf = leaf if isinstance(leaf, (jax.Array, jax.ShapeDtypeStruct)) else np.asarray(leaf)
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None))


def _compare(step: int, wanted: dict, saved: dict) -> None:
    missing, extra = sorted(wanted.keys() - saved.keys()), sorted(saved.keys() - wanted.keys())
    if missing or extra:
        parts = [f"lacks {_some(missing)}"] * bool(missing) + [
            f"holds {_some(extra)} that this run does not use"
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


def _changed(known: dict[str, int] | None, arrays: dict[str, jax.Array]) -> str:
    """ "a, b are" of the arrays that do not have their fingerprints; nothing where none are known, or all agree."""
    found = {} if known is None else fingerprints(arrays)
    bad = sorted(name for name in found if found[name] != (known or {}).get(name))
    return f"{_some(bad)} {'is' if len(bad) == 1 else 'are'}" if bad else ""


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
