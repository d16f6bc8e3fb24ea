"""Starts a real run of several processes on this machine, each with its own CPU devices."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
CONFIG = """
import sys
sys.path.insert(0, {root!r})
from tests.sharding.runs import {made}

def get_config():
    return {made}(**{changes!r})
"""


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def environment(devices):
    kept = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "JAX_PLATFORMS")}
    flags = f"--xla_force_host_platform_device_count={devices}"
    return kept | {
        "XLA_FLAGS": flags,
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
    }


def start(folder, workdir, *, processes, devices, changes, words=(), made="config", own=()):
    """The processes of one run of `made(**changes)`; their output goes to FOLDER/log-I. `own`: a word of each process."""
    folder.mkdir(exist_ok=True)
    (folder / "small.py").write_text(CONFIG.format(root=str(ROOT), made=made, changes=changes))
    port, running = free_port(), []
    for i in range(processes):
        flags = ["--coordinator", f"127.0.0.1:{port}", "--num-processes", str(processes), "--process-id", str(i),
                 "--init-timeout", "240"]  # fmt: skip
        command = [sys.executable, "-m", "entjax", "train", "small.py", *words, *own[i : i + 1], "--workdir",
                   str(workdir), *(flags if processes > 1 else [])]  # fmt: skip
        with (folder / f"log-{i}").open("w") as log:
            running.append(
                subprocess.Popen(command, cwd=folder, env=environment(devices), stdout=log, stderr=log)
            )
    return running


def wait(running, seconds=900):
    """The exit codes; whoever still runs after `seconds` is killed and counts as None."""
    end, codes = time.monotonic() + seconds, []
    for process in running:
        try:
            codes.append(process.wait(max(0.1, end - time.monotonic())))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            codes.append(None)
    return codes


def until(condition, running, seconds=600):
    """Wait for a condition while all processes live; on failure none of them is left behind."""
    end, fault = time.monotonic() + seconds, ""
    while not fault and not condition():
        if time.monotonic() >= end:
            fault = "the run did not get so far in time"
        elif any(p.poll() is not None for p in running):
            fault = "a process ended before its time"
        time.sleep(0.05)
    if fault:
        for process in running:
            process.kill()
            process.wait()
        raise AssertionError(fault)


def kill(process):
    os.kill(process.pid, signal.SIGKILL)


def logs(folder):
    return "\n".join(f"--- {path.name}\n{path.read_text()}" for path in sorted(folder.glob("log-*")))
