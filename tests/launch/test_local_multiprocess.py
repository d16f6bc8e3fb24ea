"""local_multiprocess.sh: nobody is left behind, the reason is said, and a restart resumes. No jax: see fake_train.py."""

import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time
from typing import NamedTuple

import pytest

from tests.launch.helpers import HERE, LAUNCH, environment


class Result(NamedTuple):
    code: int
    out: str
    err: str
    seconds: float
    starts: list  # (process number, pid, flags) of every start


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def begin(folder, story, *options, n=2, program=None, **env):
    """Start the supervisor on the fake program."""
    command = program or [sys.executable, "-S", str(HERE / "fake_train.py"), str(folder), story]
    args = ["-n", str(n), "-k", "3", "--port", str(free_port()), "--log-dir", str(folder / "logs"), *options]
    return subprocess.Popen(
        [str(LAUNCH / "local_multiprocess.sh"), *args, "--", *command],
        env=environment(settings=env), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def finish(process, folder, since):
    out, err = process.communicate(timeout=60)
    lines = (folder / "starts").read_text().splitlines() if (folder / "starts").exists() else []
    starts = [(words[0], int(words[1]), words[2:]) for words in (line.split() for line in lines)]
    return Result(process.returncode, out, err, time.monotonic() - since, starts)


def supervise(folder, story, *options, **how):
    since = time.monotonic()
    return finish(begin(folder, story, *options, **how), folder, since)


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # a killed orphan may stay as a zombie where nothing reaps it
    stat = pathlib.Path(f"/proc/{pid}/stat")
    return not (stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] == "Z")


def wait_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def test_all_end_well(tmp_path):
    done = supervise(tmp_path, "*=ok", n=3)
    assert done.code == 0, done.err
    assert sorted(number for number, _, _ in done.starts) == ["0", "1", "2"]
    assert "process 0 pid" in done.out and "process 1 pid" not in done.out  # one process speaks
    assert "process 2 pid" in (tmp_path / "logs" / "process-2.log").read_text()


def test_flags_and_environment_of_the_processes(tmp_path):
    done = supervise(
        tmp_path, "*=ok", MEGASCALE_NUM_SLICES="2", MEGASCALE_COORDINATOR_ADDRESS="10.0.0.9",
        XLA_FLAGS="--xla_a=1 --xla_force_host_platform_device_count=8",
    )  # fmt: skip
    assert done.code == 0, done.err
    coordinators = set()
    for number, _, flags in done.starts:
        pairs = dict(zip(flags[::2], flags[1::2], strict=True))
        assert pairs["--num-processes"] == "2" and pairs["--process-id"] == number
        assert int(pairs["--init-timeout"]) >= 60
        coordinators.add(pairs["--coordinator"])
        env = dict(line.split("=", 1) for line in (tmp_path / f"env-{number}").read_text().splitlines())
        assert env["XLA_FLAGS"].split() == ["--xla_a=1", "--xla_force_host_platform_device_count=3"]
        assert env["JAX_PLATFORMS"] == "cpu" and env["JAX_CPU_COLLECTIVES_IMPLEMENTATION"] == "gloo"
        assert not [name for name in env if name.startswith("MEGASCALE_")]
    assert len(coordinators) == 1


@pytest.mark.parametrize(
    "story, code, said",
    [
        ("1=exit 3,*=sleep", 3, r"process 1 \(pid \d+\) ended with code 3"),
        ("0=kill,*=sleep", 137, r"process 0 \(pid \d+\) ended with code 137 \(killed by signal 9\)"),
        ("2=exit 1,*=stubborn", 1, r"process 2 \(pid \d+\) ended with code 1"),
    ],
)
def test_one_death_ends_all_within_the_bound(tmp_path, story, code, said):
    done = supervise(tmp_path, story, "--end-within", "2", n=3)
    assert done.code == code
    assert re.search(said, done.err), done.err
    assert "ending the other 2" in done.err
    assert done.seconds < 2 + 8
    assert not [pid for _, pid, _ in done.starts if alive(pid)]


def test_the_log_of_the_dead_is_shown(tmp_path):
    done = supervise(tmp_path, "1=exit 3,*=sleep", "--end-within", "2")
    assert re.search(r"process 1 pid \d+ does exit 3", done.err)


def test_children_of_the_processes_end_too(tmp_path):
    done = supervise(tmp_path, "1=child,*=sleep", "--end-within", "2")
    assert done.code == 3
    child = int((tmp_path / "child").read_text())
    wait_for(lambda: not alive(child))


def test_restart_resumes_all_processes(tmp_path):
    done = supervise(tmp_path, "1@0=kill,*@0=sleep,*=ok", "--restart", "2", "--end-within", "2")
    assert done.code == 0, done.err
    assert len(done.starts) == 4
    assert ["--resume" in flags for _, _, flags in done.starts] == [False, False, True, True]
    assert "restart 1 of at most 2" in done.err


def test_restarts_are_counted(tmp_path):
    done = supervise(tmp_path, "0=exit 7,*=sleep", "--restart", "2", "--end-within", "2")
    assert done.code == 7
    assert len(done.starts) == 2 * 3


def test_resume_is_passed_once(tmp_path):
    """A command that holds --resume already is not given it twice."""
    command = [sys.executable, "-S", str(HERE / "fake_train.py"), str(tmp_path), "0@0=kill,*=ok", "--resume"]
    done = supervise(tmp_path, "", "--restart", "1", "--end-within", "2", program=command)
    assert done.code == 0, done.err
    assert [flags.count("--resume") for _, _, flags in done.starts] == [1] * 4


def test_wrong_usage_is_not_restarted(tmp_path):
    done = supervise(tmp_path, "*=exit 2", "--restart", "5", "--end-within", "2")
    assert done.code == 2
    assert len(done.starts) == 2


def test_sigterm_lets_everyone_save(tmp_path):
    since = time.monotonic()
    process = begin(tmp_path, "*=sleep", "--restart", "5", n=3)
    wait_for(
        lambda: (
            (tmp_path / "env-2").exists() and (tmp_path / "env-1").exists() and (tmp_path / "env-0").exists()
        )
    )
    process.send_signal(signal.SIGTERM)
    done = finish(process, tmp_path, since)
    assert done.code == 143
    assert sorted(p.name for p in tmp_path.glob("saved-*")) == ["saved-0", "saved-1", "saved-2"]
    assert len(done.starts) == 3  # asked to end: no restart


def test_143_means_resume_me(tmp_path):
    """All saved after a preemption: with --restart they go on, without it the code says so."""
    done = supervise(tmp_path, "*@0=exit 143,*=ok", "--restart", "1")
    assert done.code == 0 and "--resume" in done.starts[-1][2], done.err
    other = tmp_path / "other"
    other.mkdir()
    assert supervise(other, "*=exit 143").code == 143


def test_a_process_that_stays_behind_is_a_failure(tmp_path):
    done = supervise(tmp_path, "0=ok,*=stubborn", "--stragglers", "1", "--end-within", "1")
    assert done.code == 1
    assert "1 process(es) still run 1 s after the first has finished" in done.err
    assert not [pid for _, pid, _ in done.starts if alive(pid)]


def test_port_in_use_is_said_before_anything_starts(tmp_path):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        done = supervise(tmp_path, "*=ok", "--port", str(s.getsockname()[1]))
    assert done.code == 2 and "is in use" in done.err
    assert done.starts == []


@pytest.mark.parametrize(
    "args, said",
    [
        ([], "number of processes"), (["-n", "0", "-k", "1", "--", "true"], "PROCESSES=0"),
        (["-n", "2", "-k", "2"], "nothing to run"), (["-n", "2", "-k", "2", "--", "no-such-program"], "not found"),
        (["-n", "2", "-k", "2", "--restart"], "needs a value"), (["train"], "comes after --"),
    ],
)  # fmt: skip
def test_wrong_usage_is_explained(args, said):
    done = subprocess.run(
        [str(LAUNCH / "local_multiprocess.sh"), *args],
        env=environment(settings={}),
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert done.returncode == 2 and said in done.stderr
