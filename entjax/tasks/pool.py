"""The bounded verifier pool: worker processes that judge untrusted text under limits of time, memory and
input length.

Each worker is a process of its own that speaks JSON lines over pipes (nothing is pickled, nothing forked from
a process that holds a device) and knows its verifier by a `Spec`. A worker that hangs or dies is killed and
started again; its text gets reward 0 and a count. What the limits hold back and what they do not is written
in guard.py.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from entjax.tasks.scoring import MAX_CHARS, Scorer, Verdict, VerifierError, check_reward, in_process
from entjax.tasks.task import Example, Spec, Task, check_verifier

START_SECONDS = 120.0  # importing a symbolic algebra system on a busy machine takes its time
LONGEST_REPLY = 65_536
_KEPT_ENVIRONMENT = (
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "TMPDIR",
    "PYTHONPATH",
    "LD_LIBRARY_PATH",
    "VIRTUAL_ENV",
    "SYSTEMROOT",
)


class Limits(NamedTuple):
    """seconds: processor time per text; compiled code that does not come back is killed after twice, sleeping
    code after `wall_seconds`.

    memory_mb: beyond what the worker uses once its verifier is loaded.
    """

    seconds: float = 5.0
    wall_seconds: float = 30.0
    memory_mb: int = 1024
    max_chars: int = MAX_CHARS


def scorer(task: Task, *, workers: int = 2, limits: Limits | None = None) -> Scorer:
    """How a task's texts are scored: in worker processes when the task names a verifier for them, else in a
    thread of this process.

    A verifier that cannot be loaded (a missing extra, a wrong name) raises here, before a run has begun.
    """
    limits = limits or Limits()
    if workers < 1 or limits.seconds <= 0 or limits.wall_seconds <= 0 or limits.memory_mb < 1:
        raise ValueError(f"scorer: workers={workers} and {limits} must be positive.")
    check_verifier(task)
    if task.verifier is None:
        return in_process(task, max_chars=limits.max_chars)
    # last in, first out: a light load keeps to the workers that are running already
    idle: queue.LifoQueue[Worker] = queue.LifoQueue()
    everyone = [Worker(task.verifier, limits) for _ in range(workers)]
    everyone[-1].start()
    for worker in everyone:
        idle.put(worker)

    def judge(example: Example, text: str) -> tuple[Verdict, str]:
        worker = idle.get()
        try:
            return worker.judge(example, text)
        finally:
            idle.put(worker)

    def close() -> None:
        for worker in everyone:
            worker.kill()

    return Scorer(judge, threads=workers, max_chars=limits.max_chars, close=close)


class Worker:
    """One worker process, started when it is first needed and again after every death."""

    def __init__(self, spec: Spec, limits: Limits):
        self._spec = spec
        self._limits = limits
        self.process: subprocess.Popen[bytes] | None = None
        self.missing_limits: list[str] = []

    def start(self) -> None:
        """Start the process and wait until its verifier is loaded; raises VerifierError with the worker's own
        words.
        """
        self.kill()
        self.process = subprocess.Popen(
            [sys.executable, "-P", str(Path(__file__).with_name("worker.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=_environment(),
            start_new_session=True,  # Ctrl-C in a terminal is for the run, which then closes the pool
            bufsize=0,
        )
        os.set_blocking(self.process.stdin.fileno(), False)
        hello = {"factory": self._spec.factory, "kwargs": self._spec.kwargs, "seconds": self._limits.seconds}
        hello |= {
            "memory_mb": self._limits.memory_mb,
            "path": sys.path,
            "package": str(Path(__file__).parents[1]),
        }
        try:
            reply = self._exchange(hello, START_SECONDS)
        except TimeoutError:
            reply = {"failed": f"It was not ready after {START_SECONDS:g} s."}
        if "failed" in reply:
            self.kill()
            raise VerifierError(
                f"The verifier {self._spec.factory} could not be loaded in a worker. {reply['failed']}"
            )
        self.missing_limits = reply["missing_limits"]

    def judge(self, example: Example, text: str) -> tuple[Verdict, str]:
        """The verdict on one text; never raises on account of the worker. VerifierError for an example that cannot
        be sent to one: no text of it could ever be judged.
        """
        try:
            if self.process is None or self.process.poll() is not None:
                self.start()
            reply = self._exchange({"example": example, "text": text}, self._limits.wall_seconds)
        except TypeError as error:
            raise VerifierError(
                f"The example {example.prompt[:60]!r} cannot be sent to a verifier's worker ({error}): its answer and"
                " meta must hold JSON values, such as dates as texts and arrays as lists."
            ) from error
        except TimeoutError:
            self.kill()
            return Verdict(
                0.0, "timeouts"
            ), f"A verifier did not answer within {self._limits.wall_seconds} s and was killed."
        except (OSError, ValueError) as error:
            return self._bury(error)
        if "reward" in reply:
            return check_reward(reply["reward"])
        return Verdict(0.0, reply["outcome"]), f"A verifier failed: {reply['message']}"

    def kill(self) -> None:
        """End the process, and whatever it started."""
        process, self.process = self.process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):  # it may be gone already
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for pipe in (process.stdin, process.stdout):
            pipe.close()

    def _bury(self, error: Exception) -> tuple[Verdict, str]:
        """Clean up after a worker that died or talked nonsense, and say which."""
        process = self.process
        self.kill()
        code = None if process is None else process.returncode
        if code == -signal.SIGVTALRM:
            return Verdict(
                0.0, "timeouts"
            ), f"A verifier took more than {2 * self._limits.seconds} s of processor time and was killed."
        return Verdict(0.0, "crashes"), f"A verifier's worker ended with code {code}: {error}"

    def _exchange(self, message: dict[str, Any], seconds: float) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        rest = memoryview(json.dumps(message).encode() + b"\n")
        while rest:
            _wait(self.process.stdin.fileno(), select.POLLOUT, deadline)
            rest = rest[os.write(self.process.stdin.fileno(), rest) :]
        reply = b""
        while not reply.endswith(b"\n"):
            _wait(self.process.stdout.fileno(), select.POLLIN, deadline)
            part = os.read(self.process.stdout.fileno(), LONGEST_REPLY)
            reply += part
            if not part or len(reply) > LONGEST_REPLY:
                raise OSError("it closed its output" if not part else "its reply is too long")
        return json.loads(reply)


def _wait(descriptor: int, event: int, deadline: float) -> None:
    poll = select.poll()
    poll.register(descriptor, event)
    if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
        raise TimeoutError


def _environment() -> dict[str, str]:
    """Few variables are passed on: a verifier needs no credentials. Fixed hashing keeps the order of sets the
    same in every worker.
    """
    kept = {name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ}
    return kept | {
        "PYTHONHASHSEED": "0",
        "JAX_PLATFORMS": "cpu",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
