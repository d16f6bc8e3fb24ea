"""The verifier pool: whatever a verifier does, the batch gets its rewards, in order, within bounds, and the
failure is counted.
"""

import datetime
import os
import random
import signal
import time

import numpy as np
import pytest

from entjax.tasks import Example, Limits, Spec, Task, countdown, math_words, scorer
from entjax.tasks.pool import Worker
from entjax.tasks.scoring import VerifierError, Watch

QUICK = Limits(seconds=0.3, wall_seconds=4.0, memory_mb=256)


def naughty_task(folder="/", factory="naughty"):
    spec = Spec(
        f"tests.tasks.bad_verifiers:{factory}", {"folder": str(folder)} if factory == "naughty" else {}
    )
    return Task("naughty", lambda index: Example("p"), None, lambda example, text: 0.0, verifier=spec)


@pytest.fixture(scope="module")
def pool():
    with scorer(naughty_task(), workers=2, limits=QUICK) as pool:
        yield pool


def score(pool, texts):
    return pool.score([Example("p")] * len(texts), texts)


@pytest.mark.parametrize(
    "text,count",
    [
        ("loop", "timeouts"),
        ("stubborn", "timeouts"),
        ("compiled", "timeouts"),
        ("die", "crashes"),
        ("killed", "crashes"),
        ("exit", "raised"),
        ("interrupt", "raised"),
        ("raise", "raised"),
        ("recurse", "raised"),
        ("memory", "raised"),
        ("nan", "nan"),
        ("inf", "nan"),
        ("two", "out_of_range"),
        ("minus", "out_of_range"),
        ("none", "nan"),
        ("string", "nan"),
        ("7" * 200_000, "too_long"),
    ],
)
def test_a_failure_is_a_zero_and_a_count_and_its_neighbours_keep_their_rewards(pool, text, count):
    rewards, report = score(pool, ["0.25", text, "0.75"])
    np.testing.assert_array_equal(rewards, [0.25, 0.0, 0.75])
    assert getattr(report, count) == 1 and report.verified == 2 and report.failed == 1
    assert report.message and report.metrics()[f"verifier/{count}"] == 1


def test_a_sleeping_verifier_is_killed_by_the_clock():
    with scorer(naughty_task(), workers=1, limits=QUICK._replace(wall_seconds=0.5)) as pool:
        start = time.monotonic()
        rewards, report = score(pool, ["sleep", "0.5"])
        assert report.timeouts == 1 and rewards[1] == 0.5 and time.monotonic() - start < 10


def test_a_worker_survives_what_it_caught(pool):
    """Restarting costs seconds with a symbolic verifier: a time-out or an exception in Python must not cost
    the process.
    """
    with scorer(naughty_task(), workers=1, limits=QUICK) as single:
        texts = ["pid", "loop", "raise", "recurse", "exit", "memory", "pid", "die", "pid"]
        rewards, _ = score(single, texts)
        assert rewards[0] == rewards[6] != rewards[8] > 0


def test_workers_killed_from_outside_are_replaced():
    limits = QUICK._replace(seconds=5.0, wall_seconds=20.0)
    worker = Worker(Spec("tests.tasks.bad_verifiers:naughty"), limits)
    assert worker.judge(Example("p"), "0.5")[0] == (0.5, "verified")
    os.kill(worker.process.pid, signal.SIGKILL)
    worker.process.wait()
    assert worker.judge(Example("p"), "0.5")[0] == (0.5, "verified")  # dead while idle: nobody notices
    descriptors = len(os.listdir("/dev/fd"))
    for _ in range(3):
        os.kill(worker.process.pid, signal.SIGKILL)  # dying just now: either replaced in time or counted
        assert worker.judge(Example("p"), "0.5")[0] in [(0.5, "verified"), (0.0, "crashes")]
        worker.judge(Example("p"), "0.5")
    assert len(os.listdir("/dev/fd")) <= descriptors
    worker.kill()


def test_a_kill_in_the_middle_of_a_batch_costs_at_most_the_text_in_hand(monkeypatch):
    killed = []
    judge = Worker.judge

    def judge_and_kill(self, example, text):
        if text == "0.125" and self.process is not None:
            killed.append(self.process.pid)
            os.kill(self.process.pid, signal.SIGKILL)
        return judge(self, example, text)

    monkeypatch.setattr(Worker, "judge", judge_and_kill)
    with scorer(naughty_task(), workers=2, limits=QUICK) as pool:
        texts = ["0.5"] * 10 + ["0.125"] + ["0.5"] * 10
        rewards, report = score(pool, texts)
    assert killed and report.crashes <= 1 and report.verified >= 20
    np.testing.assert_array_equal(np.delete(rewards, 10), 0.5)


def test_rewards_do_not_depend_on_the_order(pool):
    texts = [f"{i / 64}" for i in range(50)] + ["random"] * 8 + ["raise", "nan", "loop", "die", "true"]
    expected, report = score(pool, texts)
    order = random.Random(0).sample(range(len(texts)), len(texts))
    shuffled, again = score(pool, [texts[i] for i in order])
    np.testing.assert_array_equal(shuffled, expected[order])
    assert report[:-1] == again[:-1]
    assert len(set(expected[50:58])) == 1 and expected[-1] == 1.0


def test_what_a_verifier_prints_does_not_reach_the_conversation(pool):
    assert list(score(pool, ["print", "0.5"])[0]) == [0.25, 0.5]


def test_a_worker_has_neither_jax_nor_secrets(monkeypatch):
    monkeypatch.setenv("ENTJAX_TEST_SECRET", "x")
    with scorer(naughty_task(), workers=1, limits=QUICK) as pool:
        rewards, report = score(pool, ["jax", "secret", "true"])
    assert list(rewards) == [0.0, 0.0, 1.0] and report.verified == 3


@pytest.mark.parametrize("text", ["write", "read", "socket", "process", "system", "eval", "remove"])
def test_files_network_processes_and_code_are_refused(tmp_path, text):
    (tmp_path / "kept").write_text("here")
    with scorer(naughty_task(tmp_path), workers=1, limits=QUICK) as pool:
        rewards, report = score(pool, [text])
    assert rewards[0] == 0.0 and report.raised == 1 and "may not" in report.message, report
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_submit_returns_while_the_verifiers_work(pool):
    start = time.monotonic()
    pending = pool.submit([Example("p")] * 4, ["loop"] * 4)
    assert time.monotonic() - start < 0.2 and not pending.done()
    assert pending.result()[1].timeouts == 4 and pending.done()


def test_a_verifier_that_cannot_be_loaded_stops_the_run_before_it_begins():
    with pytest.raises(RuntimeError, match=r"pip install 'entjax\[tasks\]'"):
        scorer(naughty_task(factory="missing"))
    with pytest.raises(RuntimeError, match="no_such_function"):
        scorer(naughty_task(factory="no_such_function"))


def test_trusted_verifiers_run_here_with_the_same_report():
    def verify(example, text):
        return {"raise": lambda: 1 / 0, "nan": lambda: np.nan, "half": lambda: np.float32(0.5)}[text]()

    task = countdown()._replace(verify=verify)
    with scorer(task, limits=Limits(max_chars=100)) as pool:
        rewards, report = score(pool, ["half", "raise", "nan", "x" * 101, "half"])
    np.testing.assert_array_equal(rewards, np.array([0.5, 0, 0, 0, 0.5], np.float32))
    assert report[:6] == (2, 0, 0, 1, 1, 1) and "ZeroDivisionError" in report.message


def test_failures_are_told_once_and_a_verifier_that_judges_nothing_ends_the_run(pool):
    told = []
    watch = Watch(told.append)
    report = lambda *texts: score(pool, texts)[1]
    watch.look(report("0.5"), "evaluation")
    watch.look(report("0.5", "raise", "two", "raise"), "evaluation")
    watch.look(report("0.5", "raise"), "training batch")
    watch.look(report("raise"), "training batch")  # later ones may fail
    assert len(told) == 1 and "In the evaluation 3 of 4 answers" in told[0]
    assert "(2 raised, 1 out of range). A verifier failed: ZeroDivisionError" in told[0]
    watch = Watch(told.append)
    with pytest.raises(VerifierError, match=r"first evaluation .*2 of 2 .*\(1 raised, 1 nan\)"):
        watch.watched(pool.score, "evaluation")([Example("p")] * 2, ["raise", "nan"])
    watch.look(report("0.5"), "training batch")
    with pytest.raises(
        VerifierError, match=r"A training batch .*rewards lie in \[0, 1\].*baseline=0.5, scale=2.0"
    ):
        watch.look(report("minus", "two"), "training batch")
    assert len(told) == 1


def test_an_example_that_is_no_json_is_named(pool):
    with pytest.raises(
        ValueError, match=r"The example 'when was it' cannot be sent .* not JSON serializable"
    ):
        pool.score([Example("when was it", meta={"at": datetime.date(2026, 1, 2)})], ["0.5"])
    assert list(score(pool, ["0.5"])[0]) == [0.5]


def test_a_verify_that_would_be_passed_over_is_refused():
    task = math_words([Example("q", "1")])
    with pytest.raises(ValueError, match=r"beside the verifier that it came with: .*verifier=None"):
        scorer(task._replace(verify=lambda example, text: 1.0))
    with pytest.raises(ValueError, match="has no verifier"):
        scorer(task._replace(verify=None, verifier=None))
    with scorer(task._replace(verify=lambda example, text: 0.5, verifier=None)) as pool:
        assert list(score(pool, ["loop"])[0]) == [0.5]


def test_a_verifier_of_ones_own_may_weigh_rewards_of_the_text():
    """Without jax in the worker: `entjax.rewards` is an empty package there."""
    spec = Spec("tests.tasks.bad_verifiers:weighted")
    with scorer(naughty_task()._replace(verifier=spec), workers=1) as pool:
        rewards, report = score(pool, ["0.5", "<answer>1</answer>", "jax"])
    assert list(rewards) == [0.25, 0.5, 0.0] and report.verified == 3


def test_sizes_must_agree_and_limits_be_positive(pool):
    with pytest.raises(ValueError, match="1 examples but 2 texts"):
        pool.score([Example("p")], ["a", "b"])
    with pytest.raises(ValueError, match="must be positive"):
        scorer(countdown(), workers=0)
