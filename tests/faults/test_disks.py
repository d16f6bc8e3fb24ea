"""Disks that are full, read-only or gone, two runs in one place, clocks that jump: no checkpoint is lost, a sentence says so."""

import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import time

import jax
import optax
import pytest

import entjax as ej
from entjax.checkpoint import CheckpointFault, Checkpoints, flatten
from entjax.fingerprint import fingerprints
from entjax.log import Lines, read_lines
from entjax.rundir import RunDirectory, RunDirectoryError
from tests import tiny


def make_state(step):
    objective, optimizer = ej.Objective(), optax.adam(1e-3)
    state = ej.init_train_state(tiny.model(step, width=32), objective, optimizer, jax.random.key(0))
    return state.replace(step=state.step + step)


@contextlib.contextmanager
def no_room(bytes_left):
    """No file of this process may grow beyond so many bytes, as on a disk that is full."""
    limit, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_left, limit[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)


@contextlib.contextmanager
def small_disk(folder, size):
    """A file system of its own; only root may make one."""
    folder.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", folder], capture_output=True
    ).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def same(state, other):
    return fingerprints(flatten(state)) == fingerprints(flatten(other))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("wait", [True, False])
def test_a_full_disk_loses_no_checkpoint(tmp_path, wait):
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=1)
    checkpoints.save(1, make_state(1), {"step": 1}, wait=True)
    with (
        no_room(1000),
        pytest.raises(CheckpointFault, match=r"earlier steps are whole: make room and go on with --resume"),
    ):
        checkpoints.save(2, make_state(2), {"step": 2}, wait=wait)
        checkpoints.close()
    again = Checkpoints(tmp_path / "checkpoints", keep=1)
    assert again.steps() == [1] and same(again.restore(1, make_state(0)), make_state(1))
    again.save(2, make_state(2), {"step": 2}, wait=True)
    assert again.steps() == [2] and same(again.restore(2, make_state(0)), make_state(2))
    again.close()


RUN = """
import sys
import entjax as ej
from tests.faults.configs import plain
from entjax import cli, config
import dataclasses
config.load_config = lambda path: dataclasses.replace(plain(200), save_every=1, eval_every=0, sft_steps=0)
sys.exit(cli.main(["train", sys.argv[0], "--workdir", sys.argv[1], "--resume"]))
"""


def run(workdir, script):
    script.write_text(RUN)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "JAX_COMPILATION_CACHE_DIR": ""}
    return subprocess.run(
        [sys.executable, script, workdir], capture_output=True, text=True, timeout=500, env=environment
    )


@pytest.mark.slow
def test_a_run_on_a_disk_that_fills_up(tmp_path):
    """A whole run on a file system of 600 kB: it ends with a sentence, and goes on from its last step with more room."""
    with small_disk(tmp_path / "disk", "600k") as disk:
        first = run(disk / "run", tmp_path / "run.py")
        said = first.stderr.strip().splitlines()[-1]
        assert first.returncode == 2 and said.startswith("entjax: ") and "go on with --resume" in said, (
            first.stderr[-2000:]
        )
        checkpoints = Checkpoints(disk / "run" / "checkpoints", keep=2)
        assert (
            checkpoints.steps()
            and checkpoints.host(checkpoints.steps()[-1])["step"] == checkpoints.steps()[-1]
        )
        checkpoints.close()
        before = [r["step"] for r in read_lines(disk / "run" / "metrics.jsonl")]
        subprocess.run(["mount", "-o", "remount,size=2m", disk], check=True)
        second = run(disk / "run", tmp_path / "run.py")
        after = [r["step"] for r in read_lines(disk / "run" / "metrics.jsonl") if "loss" in r]
        assert len(after) > len(before) and after == list(range(1, len(after) + 1)), second.stderr[-2000:]


def test_a_log_on_a_full_disk_says_so_and_is_cut_back(tmp_path):
    lines = Lines(tmp_path / "metrics.jsonl")
    lines.write({"step": 1})
    good = lines.position()
    with (
        no_room(good + 4),
        pytest.raises(OSError, match=r"metrics\.jsonl cannot be written \(File too large\).*--resume"),
    ):
        lines.write({"step": 2})
    lines.close()
    again = Lines(tmp_path / "metrics.jsonl", good)
    again.write({"step": 2})
    again.close()
    assert [r["step"] for r in read_lines(tmp_path / "metrics.jsonl")] == [1, 2]


def test_a_run_directory_that_vanishes(tmp_path):
    lines = Lines(tmp_path / "run.jsonl")
    lines.write({"step": 1})
    (tmp_path / "run.jsonl").unlink()
    with pytest.raises(OSError, match=r"run\.jsonl cannot be written .*gone"):
        lines.position()
    lines.close()
    checkpoints = Checkpoints(tmp_path / "run" / "checkpoints")
    checkpoints.save(1, make_state(1), {"step": 1}, wait=True)
    shutil.rmtree(tmp_path / "run")
    (tmp_path / "run").write_text("a file is in its place")
    with pytest.raises(CheckpointFault, match="could not be written"):
        checkpoints.save(2, make_state(2), {"step": 2}, wait=True)
    with contextlib.suppress(CheckpointFault):
        checkpoints.close()


def test_a_read_only_run_directory(tmp_path):
    with small_disk(tmp_path / "disk", "1m") as disk:
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        with pytest.raises(
            RunDirectoryError, match=r"cannot be written \(Read-only file system\): choose another"
        ):
            RunDirectory(disk / "run", resume=False).__enter__()


def test_two_runs_in_one_place(tmp_path):
    with (
        RunDirectory(tmp_path / "run", resume=False),
        pytest.raises(RunDirectoryError, match="Another run is writing to"),
        RunDirectory(tmp_path / "run", resume=True),
    ):
        pass
    with RunDirectory(tmp_path / "run", resume=True) as after:  # the lock goes with its holder
        assert not after.resumed


def test_a_clock_that_jumps_changes_nothing(tmp_path, monkeypatch):
    """Checkpoints are ordered by their steps: neither the time of day nor that of the files matters."""
    checkpoints, real = Checkpoints(tmp_path / "checkpoints", keep=2), time.time
    for step, jump in ((1, 0.0), (2, -1e9), (3, 1e9), (4, -1e5)):
        monkeypatch.setattr(time, "time", lambda jump=jump: real() + jump)
        checkpoints.save(step, make_state(step), {"step": step}, wait=True)
    monkeypatch.undo()
    assert checkpoints.steps() == [3, 4]
    checkpoints.close()
    for age, path in enumerate(sorted((tmp_path / "checkpoints").iterdir())):
        os.utime(path, (10**9 - 10**6 * age,) * 2)  # the newest step looks oldest
    again = Checkpoints(tmp_path / "checkpoints", keep=2)
    assert again.steps() == [3, 4]
    again.save(5, make_state(5), {"step": 5}, wait=True)
    assert again.steps() == [4, 5] and same(again.restore(5, make_state(0)), make_state(5))
    again.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_clock_that_jumps_in_the_middle_of_a_save(tmp_path, monkeypatch):
    """Orbax gives a save up when years seem to pass during it: a sentence, and the earlier checkpoints are whole."""
    checkpoints, clock = Checkpoints(tmp_path / "checkpoints"), iter(range(0, 10**15, 10**9))
    checkpoints.save(1, make_state(1), {"step": 1}, wait=True)
    monkeypatch.setattr(time, "time", lambda: float(next(clock)))
    with contextlib.suppress(CheckpointFault):
        checkpoints.save(2, make_state(2), {"step": 2}, wait=True)
    monkeypatch.undo()
    with contextlib.suppress(CheckpointFault):
        checkpoints.close()
    again = Checkpoints(tmp_path / "checkpoints")
    assert 1 in again.steps()
    for step in again.steps():
        assert same(again.restore(step, make_state(0)), make_state(step))
    again.close()
