"""The near side of a peer: start its driver, tell it to do one step, wait until it has.

A driver is a file beside this one that runs in the peer's environment. It gets one JSON object (the job) as its argument, says
"ready" when everything is loaded, and then answers every line "go" with a JSON object once the step is done. It imports nothing
of entjax. While one program works the others wait for a line, so they alternate in one process tree without getting in each
other's way.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
LABELS = {
    "grpo": {"TRL": "trl", "Tunix": "tunix"},
    "sample": {"transformers.generate": "trl", "Tunix's sampler": "tunix"},
}


class PeerFault(RuntimeError):
    """A peer ended; the message holds the end of what it wrote."""


class Peer:
    """A running driver."""

    def __init__(self, name: str, driver: str, job: Mapping[str, Any]):
        self.name, self.last = name, {}
        self._log = Path(tempfile.mkdtemp(prefix=f"{name}_")) / "log"
        self._process = subprocess.Popen(
            [python_of(name), str(HERE / driver), json.dumps(dict(job))], text=True, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=self._log.open("w"), env=environment(),
        )  # fmt: skip
        self._answer()

    def step(self) -> dict[str, Any]:
        """One unit of work, from the command to its answer."""
        print("go", file=self._process.stdin, flush=True)
        self.last = self._answer()
        return self.last

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def _answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            tail = self._log.read_text()[-2000:]
            raise PeerFault(
                f"The driver of {self.name} ended (exit code {self._process.returncode}):\n{tail}"
            )
        return json.loads(line)


def job_of(decoder: Any, work: Any, what: str, lr: float = 0.0) -> dict[str, Any]:
    """What a driver has to know: the decoder's weights as a Hugging Face folder, the prompts and the sizes."""
    from entjax.models import save_hf

    weights = Path(tempfile.mkdtemp(prefix="weights_"))
    save_hf(weights, decoder)
    config = json.loads((weights / "config.json").read_text())
    sizes = {"head_dim": decoder.config.head_dim, "rope_theta": decoder.config.rope.theta}
    return {
        "what": what, "weights": str(weights), "config": config | sizes, "vocab": decoder.config.vocab, "eos": 1, "pad": 0,
        "prompts": work.token_lists(decoder.config.vocab), "samples": work.samples, "new": work.new, "lr": lr,
    }  # fmt: skip


def start(decoder: Any, work: Any, what: str, only: str = "") -> dict[str, Peer]:
    """Both peers on the same weights and prompts, by the names that rows show; or `only` one, where memory is too small."""
    job = job_of(decoder, work, what)
    chosen = {label: name for label, name in LABELS[what].items() if only in ("", name)}
    if not chosen:
        raise ValueError(f"There is no peer {only!r}; only= is one of {', '.join(LABELS[what].values())}.")
    return {label: Peer(name, f"{name}_driver.py", job) for label, name in chosen.items()}


def folder() -> Path:
    """Where setup.sh made the environments."""
    return Path(os.environ.get("ENTJAX_PEERS", HERE / "venvs"))


def python_of(name: str) -> str:
    path = folder() / name / "bin" / "python"
    if not path.is_file():
        raise ValueError(
            f"There is no environment of {name} in {folder()}: run benchmarks/peers/setup.sh, or set ENTJAX_PEERS to the folder "
            "that it was given."
        )
    return str(path)


def environment() -> dict[str, str]:
    """That of this process, without its own packages, offline."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return {**kept, "HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled", "TOKENIZERS_PARALLELISM": "false"}
