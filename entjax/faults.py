"""Batches whose update was not finite: told at once, kept for `entjax replay`.

faults/step_00000012/batch.npz     the rollout as the strategy made it (plain arrays, no pickle)
faults/step_00000012/report.json   what was found, prompts, texts and rewards
faults/states/                     the state before the first such step in a row (its skipped update changed nothing)
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from entjax import distributed
from entjax.checkpoint import CheckpointFault, Checkpoints
from entjax.rollouts import Harvest
from entjax.rollouts.memory import load_arrays
from entjax.setup import Parts
from entjax.step import TrainState
from entjax.types import Rollout

MOST = 20  # batches kept; a run that skips more often has been told enough
ARRAYS = ("tokens", "mask", "logp", "entropy", "reward", "group", "temperature")


def note(folder: Any, parts: Parts, state: TrainState, rollout: Rollout, harvest: Harvest, *, first: bool) -> str:  # fmt: skip
    """Keep the batch of the step that `state` has just skipped; a sentence about the cause. `first`: of several in a row."""
    step = int(state.step)
    name, words = f"step_{step:08}", f"Step {step}: the update was not finite and was skipped"
    kept = [path.name for path in folder.glob("step_*")] if folder.exists() else []
    if name not in kept and len(kept) >= MOST:
        return f"{words}; {MOST} such batches are kept already."
    found = _causes(parts, state, rollout) if first and not distributed.started() else []
    if distributed.first():
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / "batch.npz").write_bytes(_to_bytes(rollout))
        rows = [{"prompt": e.prompt, "text": t, "reward": str(float(r))}
                for e, t, r in zip(harvest.examples, harvest.texts, harvest.reward, strict=True)]  # fmt: skip
        report = {"step": step, "found": found, "rows": rows}
        (folder / name / "report.json").write_text(json.dumps(report, indent=1))
    distributed.barrier(f"fault {step}")
    if first:
        checkpoints = Checkpoints(folder / "states", keep=1)
        checkpoints.save(step, state, {"step": step}, refound=parts.refound, wait=True)
        checkpoints.close()
    cause = f". {found[0]}" if found else ""
    return f"{words}{cause}. Look again with: entjax replay {folder / name}"


def _causes(parts: Parts, state: TrainState, rollout: Rollout) -> list[str]:
    from entjax.diagnose import diagnose  # only here: it is rarely needed

    return [str(f) for f in diagnose(parts, state.replace(step=state.step - 1), rollout)]


def _to_bytes(rollout: Rollout) -> bytes:
    arrays = {name: np.asarray(getattr(rollout, name)) for name in ARRAYS}
    arrays |= {f"extra.{name}": np.asarray(x) for name, x in rollout.extra.items()}
    file = io.BytesIO()
    np.savez_compressed(file, allow_pickle=False, **arrays)
    return file.getvalue()


def load_batch(folder: Path) -> Rollout:
    """The rollout in a folder of `faults`."""
    try:
        arrays = load_arrays(folder / "batch.npz", "The file")
        own = {name: arrays[name] for name in ARRAYS}
    except (ValueError, KeyError) as error:
        raise CheckpointFault(
            f"{folder / 'batch.npz'} is not a batch that a run has kept ({error}): give WORKDIR/faults/step_NNNNNNNN."
        ) from error
    extra = {name.removeprefix("extra."): x for name, x in arrays.items() if name.startswith("extra.")}
    return Rollout(**own, old_logp=own["logp"], extra=extra)


def load_state(folder: Path, parts: Parts) -> tuple[TrainState, int]:
    """(the newest kept state that is not younger than the batch, its step), set back to before the batch."""
    step = int(folder.name.removeprefix("step_"))
    for place in (folder.parent / "states", folder.parent.parent / "checkpoints"):
        checkpoints = Checkpoints(place, keep=1_000_000)
        usable = [s for s in checkpoints.steps() if s <= step]
        if usable:
            state = parts.restore(checkpoints, usable[-1])
            checkpoints.close()
            return state.replace(step=np.int32(step - 1) + 0 * state.step), usable[-1]
        checkpoints.close()
    raise CheckpointFault(f"{folder.parent.parent} holds no state from before step {step}: nothing to replay with.")  # fmt: skip
