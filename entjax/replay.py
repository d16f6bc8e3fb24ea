"""`entjax replay WORKDIR/faults/step_NNNNNNNN [key=value ...]`: a skipped step once more, told part by part."""

from __future__ import annotations

from pathlib import Path

import jax

from entjax import faults
from entjax.config import ConfigError, load_config, parse_overrides
from entjax.diagnose import diagnose
from entjax.setup import build


def run(options) -> int:
    """Say what is not finite and whether the update would be skipped; exit code 1 if it would."""
    folder: Path = options.folder
    workdir = folder.resolve().parent.parent
    if not (workdir / "config.py").is_file():
        raise ConfigError(f"{folder} does not lie in the faults of a run directory: {workdir} has no config.py.")  # fmt: skip
    rollout = faults.load_batch(folder)
    parts = build(load_config(workdir / "config.py").override(parse_overrides(options.override)))
    try:
        state, step = faults.load_state(folder.resolve(), parts)
        print(f"batch of step {int(state.step) + 1}, weights as after step {step}")
        for finding in diagnose(parts, state, rollout) or ["everything that was looked at is finite"]:
            print(f"  {finding}")
        pack = parts.plan(rollout)
        _, metrics = parts.step(state, parts.score(state, rollout, pack), pack)
        metrics = {name: float(x) for name, x in jax.device_get(metrics).items()}
    finally:
        parts.close()
    skipped = metrics["update/skipped"]
    end = (
        f"{skipped:g} of {parts.config.minibatches} updates would be skipped"
        if skipped
        else "the update would be made"
    )
    print(f"loss {metrics['loss']:g}, gradient norm {metrics['grad_norm']:g}: {end}")
    return 1 if skipped else 0
