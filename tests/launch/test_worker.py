"""worker.sh, really run: the process outlives its session, is started once, and says how it ended."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.launch.helpers import HERE, LAUNCH, environment
from tests.launch.test_local_multiprocess import alive, wait_for


@pytest.fixture
def worker(tmp_path):
    """A function that calls worker.sh with its runs in a folder of the test; ends what it started."""
    env = environment(settings={"ENTJAX_RUNS": str(tmp_path / "runs"), "ENTJAX_VENV": str(tmp_path / "venv")})

    def call(*args, **changes):
        done = subprocess.run(
            ["bash", str(LAUNCH / "worker.sh"), *args],
            env=env | changes,
            capture_output=True,
            text=True,
            timeout=60,
        )
        return done.returncode, done.stdout.strip(), done.stderr

    yield call
    call("stop", "r", "1")


def fake(folder, story):
    return ("start", "r", "--", sys.executable, "-S", str(HERE / "fake_train.py"), str(folder), story)


def child_pid(folder):
    return int((folder / "runs" / "r" / "child.pid").read_text())


def test_start_runs_in_the_background_in_a_session_of_its_own(worker, tmp_path):
    assert worker("status", "r")[1] == "absent"
    assert worker(*fake(tmp_path, "*=sleep"))[:2] == (0, "started")
    wait_for(lambda: (tmp_path / "env-0").exists())
    assert worker("status", "r")[1] == "running"
    assert os.getsid(child_pid(tmp_path)) != os.getsid(0)  # the end of the ssh session does not reach it
    os.kill(child_pid(tmp_path), signal.SIGHUP)
    time.sleep(0.3)
    assert worker("status", "r")[1] == "running"


def test_start_twice_is_one_process(worker, tmp_path):
    worker(*fake(tmp_path, "*=sleep"))
    assert worker(*fake(tmp_path, "*=sleep"))[:2] == (0, "already running")
    wait_for(lambda: (tmp_path / "env-0").exists())
    assert len((tmp_path / "starts").read_text().splitlines()) == 1


@pytest.mark.parametrize(
    "story, answer", [("*=ok", "exited 0"), ("*=exit 5", "exited 5"), ("*=kill", "exited 137")]
)
def test_status_tells_how_it_ended(worker, tmp_path, story, answer):
    worker(*fake(tmp_path, story))
    wait_for(lambda: worker("status", "r")[1] != "running")
    assert worker("status", "r")[1] == answer
    code, text, _ = worker("logs", "r", "1000")
    assert code == 0 and "process 0 pid" in text and f"ended with code {answer.split()[1]}" in text


def test_stop_lets_it_save(worker, tmp_path):
    worker(*fake(tmp_path, "*=sleep"))
    wait_for(lambda: (tmp_path / "env-0").exists())
    assert worker("stop", "r", "20")[1] == "exited 143"
    assert (tmp_path / "saved-0").exists()


def test_stop_has_a_bound(worker, tmp_path):
    worker(*fake(tmp_path, "*=stubborn"))
    wait_for(lambda: (tmp_path / "env-0").exists())
    pid, since = child_pid(tmp_path), time.monotonic()
    worker("stop", "r", "1")
    assert not alive(pid) and time.monotonic() - since < 15


def test_sigterm_of_the_machine_reaches_the_program(worker, tmp_path):
    """At a preemption the machine signals everything at once; the program saves, the wrapper waits for it."""
    worker(*fake(tmp_path, "*=sleep"))
    wait_for(lambda: (tmp_path / "env-0").exists())
    supervisor = int((tmp_path / "runs" / "r" / "supervisor.pid").read_text())
    for pid in (supervisor, child_pid(tmp_path)):
        os.kill(pid, signal.SIGTERM)
    wait_for(lambda: worker("status", "r")[1] != "running")
    assert worker("status", "r")[1] == "exited 143" and (tmp_path / "saved-0").exists()


def test_stale_megascale_is_gone(worker, tmp_path):
    worker(
        *fake(tmp_path, "*=ok"),
        MEGASCALE_COORDINATOR_ADDRESS="10.0.0.9",
        MEGASCALE_NUM_SLICES="2",
        KEPT="yes",
    )
    wait_for(lambda: (tmp_path / "env-0").exists() and worker("status", "r")[1] == "exited 0")
    names = [line.split("=")[0] for line in (tmp_path / "env-0").read_text().splitlines()]
    assert "KEPT" in names and not [name for name in names if name.startswith("MEGASCALE_")]


def test_a_restarted_host_is_lost_not_running(worker, tmp_path):
    """After a reboot the old process number may belong to anybody."""
    folder = tmp_path / "runs" / "r"
    folder.mkdir(parents=True)
    (folder / "supervisor.pid").write_text(str(os.getpid()))
    assert worker("status", "r")[1] == "lost"
    assert worker(*fake(tmp_path, "*=ok"))[1] == "started"


def test_log_is_copied_to_the_bucket(worker, tmp_path):
    stub = tmp_path / "bin" / "gcloud"
    stub.parent.mkdir()
    stub.write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/copies\n')
    stub.chmod(0o755)
    path = f"{stub.parent}:{os.environ['PATH']}"
    worker(*fake(tmp_path, "*=ok"), PATH=path, LOG_URL="gs://b/runs/r/logs")
    wait_for(lambda: (tmp_path / "copies").exists())
    assert "log.txt gs://b/runs/r/logs/" in (tmp_path / "copies").read_text()


def test_setup_is_pinned(worker):
    code, text, err = worker("--dry-run", "setup")
    assert code == 0, err
    assert "uv==" in text and "--python 3." in text and "import entjax, jax" in text
    assert "jax.devices" not in text  # on one host of a slice it would wait for the others
    assert "[tpu,gcs,tasks]" in text and "gcsfs, math_verify" in text  # a gs:// workdir, the shipped configs
    bare = worker("--dry-run", "setup", ENTJAX_EXTRA="tpu")[1]
    assert "[tpu]" in bare and "gcsfs" not in bare and "math_verify" not in bare


@pytest.mark.parametrize("args", [("fly", "r"), ("start",), ("start", "r"), ("logs", "r")])
def test_wrong_usage(worker, args):
    code, _, err = worker(*args)
    assert code != 0 and "error" in err
