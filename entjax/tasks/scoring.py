"""Rewards for a batch of texts, with a report of what went wrong: a failed verification is a zero and a
count, never an exception.

    with ej.tasks.scorer(task) as scorer:
        pending = scorer.submit(examples, texts)     # returns at once; the device can work meanwhile
        rewards, report = pending.result()           # float32 [N]; the same in whatever order the texts came
"""

from __future__ import annotations

import functools
import math
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, NamedTuple

import numpy as np

from entjax.tasks.task import Example, Task

MAX_CHARS = 100_000
Score = Callable[[Sequence[Example], Sequence[str]], tuple[np.ndarray, "Report"]]


class VerifierError(ValueError, RuntimeError):
    """A verifier that cannot be loaded or judges nothing, or an example that cannot be given to one."""


class Verdict(NamedTuple):
    """The reward of one text and how it came about: one of the field names of `Report`."""

    reward: float
    outcome: str


class Report(NamedTuple):
    """How many texts of a batch met with what. `message` is one sentence about the first failure."""

    verified: int = 0
    timeouts: int = 0
    crashes: int = 0  # the worker died: killed, out of memory, a fault in compiled code
    raised: int = 0
    nan: int = 0  # not a finite number
    too_long: int = 0
    out_of_range: int = 0  # a number, but not in [0, 1]
    message: str = ""

    @property
    def failed(self) -> int:
        return self.timeouts + self.crashes + self.raised + self.nan + self.too_long + self.out_of_range

    @property
    def sentence(self) -> str:
        """How many got no verdict, of what kinds, and the first message."""
        fields = self._replace(verified=0, message="")._asdict().items()
        counts = ", ".join(f"{count} {field.replace('_', ' ')}" for field, count in fields if count)
        shown = "".join(c if c.isprintable() else " " for c in self.message).rstrip(
            "."
        )  # it may quote a model
        return f"{self.failed} of {self.verified + self.failed} answers got no verdict and reward 0 ({counts}). {shown}."

    def metrics(self) -> dict[str, int]:
        """The counts under the names that a run logs them by."""
        return {f"verifier/{field}": count for field, count in self._asdict().items() if field != "message"}


class Watch:
    """Looks at the reports of a run: tells once of verifications that failed, and ends a run whose verifier is of
    no use.
    """

    def __init__(self, say: Callable[[str], None]):
        self._say = say
        self._told = False
        self._judged: set[str] = set()

    def look(self, report: Report, what: str) -> None:
        """`what`: the training batch or the evaluation. VerifierError when nothing in the first of its kind got a
        verdict, or all rewards of any are out of range.
        """
        first = what not in self._judged
        if report.failed and not report.verified and (first or report.out_of_range == report.failed):
            raise VerifierError(
                f"{'The first' if first else 'A'} {what} has taught nothing: {report.sentence} Mend the verifier and start"
                " again, a run with --resume."
            )
        if report.verified:
            self._judged.add(what)
        if report.failed and not self._told:
            self._told = True
            self._say(f"In the {what} {report.sentence} The counts of later batches are in metrics.jsonl.")

    def watched(self, score: Score, what: str) -> Score:
        """`score` whose reports are looked at."""

        def f(examples: Sequence[Example], texts: Sequence[str]) -> tuple[np.ndarray, Report]:
            rewards, report = score(examples, texts)
            self.look(report, what)
            return rewards, report

        return f


class Pending(NamedTuple):
    """Rewards that are being computed, one future per text."""

    futures: tuple[Future[tuple[Verdict, str]], ...]

    def done(self) -> bool:
        return all(future.done() for future in self.futures)

    def result(self) -> tuple[np.ndarray, Report]:
        """Wait for all; rewards [N] in the order of the texts. A signal that comes just before the main thread begins to
        wait does not wake it, so it looks up once a second."""
        while wait(self.futures, timeout=1).not_done:
            pass
        results = [future.result() for future in self.futures]
        counts = Counter(verdict.outcome for verdict, _ in results)
        message = next((message for verdict, message in results if verdict.outcome != "verified"), "")
        return np.array([verdict.reward for verdict, _ in results], np.float32), Report(
            **counts, message=message
        )


class Scorer:
    """Threads that ask `judge(example, text)` for verdicts; `close` ends them and whatever `judge` holds on
    to.
    """

    def __init__(
        self,
        judge: Callable[[Example, str], tuple[Verdict, str]],
        *,
        threads: int,
        max_chars: int = MAX_CHARS,
        close: Callable[[], None] = lambda: None,
    ):
        self._judge = judge
        self._max_chars = max_chars
        self._close = close
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="verifier")

    def submit(self, examples: Sequence[Example], texts: Sequence[str]) -> Pending:
        """Start scoring; returns at once."""
        if len(examples) != len(texts):
            raise ValueError(f"{len(examples)} examples but {len(texts)} texts: give one example per text.")
        return Pending(
            tuple(self._threads.submit(self._one, *pair) for pair in zip(examples, texts, strict=True))
        )

    def score(self, examples: Sequence[Example], texts: Sequence[str]) -> tuple[np.ndarray, Report]:
        """Rewards [N] and the report, waiting for them."""
        return self.submit(examples, texts).result()

    def close(self) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._close()

    def __enter__(self) -> Scorer:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _one(self, example: Example, text: str) -> tuple[Verdict, str]:
        if len(text) > self._max_chars:
            return Verdict(
                0.0, "too_long"
            ), f"A text of {len(text)} characters is over the limit of {self._max_chars}."
        return self._judge(example, text)


def in_process(task: Task, *, max_chars: int = MAX_CHARS) -> Scorer:
    """Score in a thread of this process: for verifiers that are trusted to be quick on any text. Nothing
    bounds their time.
    """
    verify = task.verify
    if verify is None:
        raise ValueError(f"The task {task.name} is judged in worker processes: use ej.tasks.scorer(task).")

    def judge(example: Example, text: str) -> tuple[Verdict, str]:
        try:
            return check_reward(verify(example, text))
        except (Exception, SystemExit) as error:
            return Verdict(
                0.0, "raised"
            ), f"The verifier of {task.name} raised {type(error).__name__}: {str(error)[:200]}"

    return Scorer(judge, threads=1, max_chars=max_chars)


def canonical_of(task: Task) -> Callable[[Example, str], Any] | None:
    """The task's canonical answers, None for an answer on which it raises or whose form cannot be compared; told once."""
    return None if task.canonical is None else _guarded(task.canonical, task.name)


@functools.lru_cache(64)  # asked for in every step, told of once
def _guarded(canonical: Callable[[Example, str], Any], name: str) -> Callable[[Example, str], Any]:
    told = False

    def answer(example: Example, text: str) -> Any:
        nonlocal told
        try:
            found = canonical(example, text)
            hash(found)
            return found
        except Exception as error:
            if not told:
                told = True
                print(
                    f"canonical of {name} raised {type(error).__name__}: {str(error)[:200]}; such answers count as none.",
                    file=sys.stderr,
                )
            return None

    return answer


def check_reward(value: Any) -> tuple[Verdict, str]:
    """A finite number in [0, 1] passes; everything else is worth zero and counted. NaN is what a worker says for
    what is no number.
    """
    try:
        reward = float(value)
    except (TypeError, ValueError, OverflowError):
        return Verdict(0.0, "nan"), f"A verifier returned {type(value).__name__!s}, which is not a number."
    if not math.isfinite(reward):
        return Verdict(
            0.0, "nan"
        ), f"A verifier returned {reward}, or what is no number; rewards lie in [0, 1]."
    if not 0.0 <= reward <= 1.0:
        return Verdict(0.0, "out_of_range"), (
            f"A verifier returned {reward:g}; rewards lie in [0, 1]. For -1 and 1 return 0 and 1; the objective makes"
            " them -1 and 1 with advantages.raw(baseline=0.5, scale=2.0)."
        )
    return Verdict(reward, "verified"), ""
