"""Run a launch script against the pretend cloud of world.py, or print what it would do."""

import json
import os
import pathlib
import shlex
import subprocess
import sys
from typing import NamedTuple

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent
LAUNCH = ROOT / "launch"

SETTINGS = {
    "PROJECT": "my-project",
    "ZONE": "us-east5-b",
    "RUN_NAME": "steer-a",
    "BUCKET": "gs://my-bucket/entjax",
    "CAPACITY": "spot",
    "ACCELERATOR_TYPE": "v5litepod-8",
    "RUNTIME_VERSION": "v2-alpha-tpuv5-lite",
    "TPU_WORKERS": "2",
    "ENTJAX_REPO": "https://example.com/entjax.git",
    "ENTJAX_REF": "v0.1.0",
    "CONFIG": "configs/quickstart.py",
    "PROBE_SECONDS": "0",
    "WATCH_SECONDS": "0",
    "POLL_SECONDS": "0",
    "KUBE_CONTEXT": "gke_my-project_us-east5_c",
    "NAMESPACE": "default",
    "CLUSTER": "my-cluster",
    "IMAGE": "us-docker.pkg.dev/my-project/entjax:0.1.0",
    "TPU_TYPE": "v5litepod-8",
    "GKE_ACCELERATOR": "tpu-v5-lite-podslice",
    "GKE_TOPOLOGY": "2x4",
    "CHIPS_PER_HOST": "4",
    "CPU_PROCESSES": "2",
    "CPU_DEVICES": "4",
    "CPU_MEMORY": "8Gi",
    "WORKDIR_ROOT": "/scratch/team",
    "ACCOUNT": "team",
    "PARTITION": "gpu",
    "NODES": "2",
    "GPUS_PER_NODE": "4",
    "TIME_LIMIT": "12:00:00",
}


class Done(NamedTuple):
    code: int
    out: str
    err: str


class Cloud(NamedTuple):
    """A folder with stub programs and the world file."""

    folder: pathlib.Path

    def world(self):
        return json.loads((self.folder / "world.json").read_text())

    def change(self, **fields):
        (self.folder / "world.json").write_text(json.dumps(self.world() | fields))

    def calls(self, *words):
        """Recorded calls that contain every one of the words, as lines."""
        lines = [shlex.join(call) for call in self.world()["calls"]]
        return [line for line in lines if all(word in line for word in words)]


def environment(folder=None, settings=None):
    """A clean environment: stubs before everything, no setting of the person who runs the tests."""
    path = os.environ["PATH"]
    env = {"PATH": path, "HOME": "/home/me", "LC_ALL": "C"}
    if folder is not None:
        env |= {
            "PATH": f"{folder / 'bin'}:{path}",
            "WORLD": str(folder / "world.json"),
            "TMPDIR": str(folder),
        }
    return env | (SETTINGS if settings is None else settings)


def script(name, *args, folder=None, settings=None, timeout=60, **changes):
    """Run launch/NAME ARGS; `changes` are settings by name, None removes one."""
    env = environment(folder, settings) | changes
    env = {k: v for k, v in env.items() if v is not None}
    done = subprocess.run(
        [str(LAUNCH / name), *args],
        env=env,
        capture_output=True,
        text=True,
        timeout=timeout,
        stdin=subprocess.DEVNULL,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def build_cloud(folder, world):
    """Write the stubs and the world into the folder."""
    bin_folder = folder / "bin"
    bin_folder.mkdir()
    for program in ("gcloud", "xpk", "kubectl", "sbatch", "squeue", "scontrol", "sacct", "scancel", "ssh"):
        stub = bin_folder / program
        stub.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "{HERE / "world.py"}" {program} "$@"\n')
        stub.chmod(0o755)
    (folder / "world.json").write_text(json.dumps(world))
    return Cloud(folder)
