"""Kills a run again and again, in a phase drawn by lot, goes on with it, and compares what is left with a run left alone.

python -m tests.faults.kills [plain|everything|pair] [--kills 25] [--steps 40] [--seed 0]
"""

import argparse
import json
import os
import random
import select
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from entjax.log import read_lines
from tests.distributed.processes import free_port
from tests.records import untimed

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".pytest_cache" / "xla"
PHASES = ("start", "compile", "rollout", "reward", "update", "log", "save", "evaluate")
# Longest wait in seconds between the beginning of a phase and the signal; compilations come from the cache.
DELAY = {"start": 4.0, "compile": 0.2, "rollout": 0.05, "reward": 0.04, "update": 0.05, "log": 0.01, "save": 0.1,
         "evaluate": 0.05}  # fmt: skip


class Run:
    """The processes of one attempt, and the phases that the first of them reports."""

    def __init__(self, name, steps, workdir, *, processes=1, log=None):
        self.children, self.rest, self.pipes = [], b"", []
        where = f"127.0.0.1:{free_port()}"
        for i in range(processes):
            reader, writer = os.pipe()
            flags = ["--coordinator", where, "--num-processes", str(processes), "--process-id", str(i)]
            command = [sys.executable, "-m", "tests.faults.marked", name, str(steps), str(writer), "--workdir",
                       str(workdir), "--resume", *(flags if processes > 1 else [])]  # fmt: skip
            environment = os.environ | {
                "JAX_PLATFORMS": "cpu",
                "PYTHONPATH": str(ROOT),
                "XLA_FLAGS": "--xla_force_host_platform_device_count=1",
                "JAX_COMPILATION_CACHE_DIR": str(CACHE),
                "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.05",
                "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
            }
            with open(os.devnull if log is None else log, "a") as output:
                child = subprocess.Popen(
                    command, env=environment, stdout=output, stderr=output, pass_fds=[writer], cwd=ROOT
                )
            self.children.append(child)
            os.close(writer)
            self.pipes.append(reader)

    def until(self, phase, times, seconds=400):
        """Wait until the first process has begun `phase` so often; False if it ended before."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            *lines, self.rest = self.rest.split(b"\n")
            for i, line in enumerate(lines):
                times -= line.decode() == phase
                if times == 0:
                    self.rest = b"\n".join([*lines[i + 1 :], self.rest])
                    return True
            if select.select(self.pipes[:1], [], [], 1.0)[0]:
                part = os.read(self.pipes[0], 4096)
                if not part:
                    return False
                self.rest += part
        raise TimeoutError(f"the run did not reach {phase} within {seconds} s")

    def end(self, number=None, seconds=400):
        """Signal one of the processes, drawn by its number; the others are a gang that dies with it. The exit codes."""
        if number is not None:
            os.kill(self.children[-1].pid, number)
        deadline, codes = time.monotonic() + seconds, []
        if number == signal.SIGKILL:  # the supervisor of a gang ends the rest
            time.sleep(0.2 if len(self.children) > 1 else 0)
            for child in self.children:
                child.kill()
        for child, pipe in zip(self.children, self.pipes, strict=True):
            while child.poll() is None and time.monotonic() < deadline:
                if select.select([pipe], [], [], 0.2)[0] and not os.read(pipe, 65536):
                    child.wait(max(1.0, deadline - time.monotonic()))
            os.close(pipe)
            codes.append(child.returncode)
        return codes


def lottery(kills, seed):
    """(phase, how often it begins before the signal, the signal): every phase once before any comes again."""
    draw, cycle = random.Random(seed), []
    for _ in range(kills):
        cycle = cycle or draw.sample(PHASES, len(PHASES))
        phase = cycle.pop()
        often = {"start": 1, "compile": draw.randint(1, 30), "evaluate": 1}.get(phase, draw.randint(1, 2))
        yield phase, often, draw.choice((signal.SIGKILL, signal.SIGTERM))


def study(name, *, steps, kills=25, seed=0, folder=None, plan=None):
    """Run alone, run with kills; returns {"kills": [...], "differences": [...], ...}. No difference means nothing was lost."""
    folder = Path(tempfile.mkdtemp()) if folder is None else folder
    processes, started, log = (2 if name == "pair" else 1), time.monotonic(), folder / "output.txt"
    alone, workdir, done = folder / "alone", folder / "killed", []
    codes = Run(name, steps, alone, processes=processes, log=log).end()
    assert codes == [0] * processes, log.read_text()
    draw = random.Random(seed)
    for phase, often, number in lottery(kills, seed) if plan is None else plan:
        run = Run(name, steps, workdir, processes=processes, log=log)
        reached = run.until(phase, often)
        time.sleep(draw.uniform(0, DELAY[phase]) if reached else 0)
        at, codes = last_step(workdir), run.end(number)
        done.append({"phase": phase, "signal": number.name, "step": at, "codes": codes, "reached": reached})
        print(json.dumps(done[-1]), flush=True)
        if codes == [0] * processes:
            break
    codes = Run(name, steps, workdir, processes=processes, log=log).end()
    assert codes == [0] * processes, log.read_text()
    return {
        "config": name,
        "steps": steps,
        "kills": done,
        "differences": differences(alone, workdir),
        "seconds": round(time.monotonic() - started),
    }


def last_step(workdir):
    """The last step in the metrics, 0 before any."""
    path = workdir / "metrics.jsonl"
    records = read_lines(path) if path.exists() else []
    return records[-1]["step"] if records else 0


def differences(one, other):
    """What two run directories do not share: metrics without times, samples byte for byte, last checkpoint bit for bit."""
    found = []
    a, b = (untimed(read_lines(folder / "metrics.jsonl")) for folder in (one, other))
    if [r["step"] for r in a] != [r["step"] for r in b]:
        found.append(f"steps: {[r['step'] for r in a]} and {[r['step'] for r in b]}")
    found += [f"metrics of step {x['step']}: {sorted(k for k in x.keys() | y.keys() if x.get(k) != y.get(k))}"
              for x, y in zip(a, b) if x != y]  # fmt: skip
    if (one / "samples.jsonl").read_bytes() != (other / "samples.jsonl").read_bytes():
        found.append("samples.jsonl")
    (step_a, state_a, host_a), (step_b, state_b, host_b) = map(last_checkpoint, (one, other))
    if step_a != step_b or state_a.keys() != state_b.keys():
        return [*found, f"last checkpoint: step {step_a} and {step_b}"]
    found += [f"checkpoint: {k}" for k in state_a if state_a[k].tobytes() != state_b[k].tobytes()]
    # the length of the metrics differs with the digits of the times
    return found + [
        f"checkpoint's host side: {k}"
        for k in host_a
        if host_a[k] != host_b.get(k) and k not in ("metrics_bytes", "digest")
    ]


def last_checkpoint(workdir):
    """(step, arrays by name, host side) of the newest checkpoint."""
    import orbax.checkpoint as ocp

    handlers = {"state": ocp.StandardCheckpointHandler(), "host": ocp.JsonCheckpointHandler()}
    options = ocp.CheckpointManagerOptions(step_prefix="step", step_format_fixed_length=8)
    with ocp.CheckpointManager(
        workdir.absolute() / "checkpoints", options=options, item_handlers=handlers
    ) as manager:
        step = max(manager.all_steps())
        tree = manager.item_metadata(step)["state"]
        shapes = {k: np.zeros(m.shape, m.dtype) for k, m in getattr(tree, "tree", tree).items()}
        items = ocp.args.Composite(state=ocp.args.StandardRestore(shapes), host=ocp.args.JsonRestore())
        found = manager.restore(step, args=items)
    return step, {k: np.asarray(v) for k, v in found["state"].items()}, found["host"]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("name", nargs="?", default="plain", choices=["plain", "everything", "pair"])
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    found = study(options.name, kills=options.kills, steps=options.steps, seed=options.seed)
    print(json.dumps({k: v for k, v in found.items() if k != "kills"}, indent=1))
    return 1 if found["differences"] or len(found["kills"]) < options.kills else 0


if __name__ == "__main__":
    sys.exit(main())
