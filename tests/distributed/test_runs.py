"""Real runs of several processes with two devices each: the numbers of one process, checkpoints, deaths and SIGTERM."""

import os
import signal
import time

import pytest

from entjax.log import read_lines
from tests.distributed.processes import kill, logs, start, until, wait
from tests.sharding.runs import curves, first_difference, largest_gap

pytestmark = pytest.mark.slow
CLOSE = 1e-5


def run(folder, workdir, **how):
    codes = wait(start(folder, workdir, **how))
    assert codes == [0] * len(codes), logs(folder)
    return workdir


def same_numbers(one, other):
    assert first_difference(one, other) is None
    gaps = largest_gap(one, other)
    print(gaps)
    assert max(gaps.values()) < CLOSE
    assert [r["step"] for r in curves(one)] == [r["step"] for r in curves(other)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """One process with four devices: six steps."""
    folder = tmp_path_factory.mktemp("alone")
    changes = {"steps": 6, "mesh": {"fsdp": 4}}
    return run(folder, folder / "run", processes=1, devices=4, changes=changes)


@pytest.mark.parametrize("mesh", [{"fsdp": 4}, {"fsdp": 2, "tensor": 2}, {"replica": 2, "fsdp": 2}])
def test_two_processes_give_the_numbers_of_one(alone, tmp_path, mesh):
    same_numbers(
        alone, run(tmp_path, tmp_path / "run", processes=2, devices=2, changes={"steps": 6, "mesh": mesh})
    )
    assert {p.name for p in (tmp_path / "run" / "plots").iterdir()} == {"dashboard.png"}


def test_everything_at_once(tmp_path):
    """Warm start, a reference policy, groups drawn again, two minibatches, evaluations in between: still the same numbers."""
    changes = {"steps": 4, "sft_steps": 5, "sft_batch": 16, "recipe": "grpo_kl", "dynamic_sampling": 2, "minibatches": 2,
               "eval_every": 2, "mesh": {"fsdp": 2, "tensor": 2}}  # fmt: skip
    one = run(tmp_path / "one", tmp_path / "run1", processes=1, devices=4, changes=changes)
    two = run(tmp_path / "two", tmp_path / "run2", processes=2, devices=2, changes=changes)
    same_numbers(one, two)


def test_a_checkpoint_of_four_is_resumed_by_two_and_by_one(tmp_path):
    """Four processes take steps 1 and 2, two take 3 and 4, one takes 5 and 6: the numbers of one that took them all."""
    whole = run(
        tmp_path / "whole",
        tmp_path / "all",
        processes=1,
        devices=8,
        changes={"steps": 6, "mesh": {"fsdp": 8}},
    )
    workdir = tmp_path / "run"
    for processes, devices, steps in ((4, 2, 2), (2, 2, 4), (1, 2, 6)):
        changes = {"steps": steps, "mesh": {"fsdp": -1}}
        run(
            tmp_path / f"by{processes}",
            workdir,
            processes=processes,
            devices=devices,
            changes=changes,
            words=["--resume"],
        )
    continues(whole, workdir)


def continues(whole, pieces):
    """Six steps, each with the numbers of the run that was never moved."""
    wanted, got = ([r for r in curves(run) if "reward/mean" in r] for run in (whole, pieces))
    assert [r["step"] for r in got] == [1, 2, 3, 4, 5, 6]
    assert first_difference(whole, pieces) is None
    for a, b in zip(wanted, got, strict=True):
        for name in ("reward/mean", "entropy/mean", "loss", "grad_norm"):
            assert abs(a[name] - b[name]) < CLOSE, (name, a["step"])


def test_a_replay_buffer_is_the_same_in_all_processes_and_moves_with_the_checkpoint(tmp_path):
    """Two processes take steps 1 to 3 and one takes 4 to 6, with successes of earlier steps among the rows before and after."""
    changes = {"mesh": {"fsdp": 4}}
    how = {"devices": 4, "processes": 1, "made": "replaying", "changes": {**changes, "steps": 6}}
    whole = run(tmp_path / "whole", tmp_path / "all", **how)
    two = {**how, "devices": 2, "processes": 2, "changes": {**changes, "steps": 3}}
    run(tmp_path / "two", tmp_path / "run", **two)
    run(tmp_path / "one", tmp_path / "run", **how, words=["--resume"])
    continues(whole, tmp_path / "run")
    replayed = {r["step"]: r["replay/rows"] for r in curves(whole) if "replay/rows" in r}
    print(f"replayed rows by step: {replayed}")
    assert any(replayed[step] for step in (2, 3)) and any(replayed[step] for step in (4, 5, 6))


def steps_done(workdir):
    path = workdir / "metrics.jsonl"
    return read_lines(path)[-1]["step"] if path.exists() and path.stat().st_size else 0


@pytest.mark.parametrize("victim", [0, 1])
def test_when_one_dies_the_other_ends_and_the_relaunch_resumes(tmp_path, victim):
    how = {"processes": 2, "devices": 2, "changes": {"steps": 100_000, "mesh": {"fsdp": 4}}}
    running = start(tmp_path / "one", tmp_path / "run", **how)
    until(lambda: steps_done(tmp_path / "run") >= 3, running)
    kill(running[victim])
    started = time.monotonic()
    codes = wait(running, 90)
    seconds = time.monotonic() - started
    other = (tmp_path / "one" / f"log-{1 - victim}").read_text()
    print(f"the other process ended after {seconds:.1f} s with code {codes[1 - victim]}")
    assert codes[victim] == -signal.SIGKILL and codes[1 - victim] not in (0, None) and seconds < 60
    assert any(words in other for words in ("another process died", "another task died", "leader task")), (
        other
    )
    steps = steps_done(tmp_path / "run") + 3
    again = {**how, "changes": {"steps": steps, "mesh": {"fsdp": 4}}, "words": ["--resume"]}
    run(tmp_path / "two", tmp_path / "run", **again)
    assert [r["step"] for r in curves(tmp_path / "run") if "reward/mean" in r] == list(range(1, steps + 1))


def test_sigterm_to_one_is_noticed_by_all(alone, tmp_path):
    """All save the same step and end with 143; resumed, the run has the numbers of one that was left alone."""
    how = {"processes": 2, "devices": 2}
    running = start(
        tmp_path / "one",
        tmp_path / "run",
        **how,
        changes={"steps": 6, "mesh": {"fsdp": 4}, "save_every": 100},
    )
    until(lambda: steps_done(tmp_path / "run") >= 1, running)
    os.kill(running[1].pid, signal.SIGTERM)
    codes = wait(running, 120)
    assert codes == [143, 143], logs(tmp_path / "one")
    assert steps_done(tmp_path / "run") < 6
    run(
        tmp_path / "two",
        tmp_path / "run",
        **how,
        changes={"steps": 6, "mesh": {"fsdp": 4}, "save_every": 100},
        words=["--resume"],
    )
    same_numbers(alone, tmp_path / "run")


def test_a_refused_run_directory_ends_all_processes(alone, tmp_path):
    codes = wait(
        start(tmp_path, alone, processes=2, devices=2, changes={"steps": 6, "mesh": {"fsdp": 4}}), 120
    )
    assert codes == [2, 2], logs(tmp_path)
    assert "already holds a run" in (tmp_path / "log-1").read_text()


def test_processes_with_different_configs_end_before_the_first_step(tmp_path):
    how = {"processes": 2, "devices": 2, "changes": {"steps": 6, "mesh": {"fsdp": 4}}}
    running = start(tmp_path / "two", tmp_path / "run", own=["lr=1e-6", "lr=0.5"], **how)
    assert wait(running) == [2, 2], logs(tmp_path / "two")
    for path in (tmp_path / "two").glob("log-*"):
        assert "1 of 0 to 1 differ from process 0 in lr. Start all" in path.read_text()
    assert not (tmp_path / "run").exists()
