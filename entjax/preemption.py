"""SIGTERM: finish cleanly. The run is told between its phases, or at once where nothing would be lost."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

from entjax import distributed

EXIT_CODE = 143  # 128 + SIGTERM: "ended after saving, resume me"


class Preempted(Exception):
    """The run was asked to end; its state is that of the last finished step."""


class Notice:
    """Listens for SIGTERM while it is entered."""

    def __init__(self) -> None:
        self.received = False
        self._interruptible = False

    def __enter__(self) -> Notice:
        with contextlib.suppress(
            ValueError
        ):  # not in the main thread: nobody can signal us, check() still works
            self._previous = signal.signal(signal.SIGTERM, self._handle)
        return self

    def __exit__(self, *exception: object) -> None:
        with contextlib.suppress(ValueError, AttributeError):
            signal.signal(signal.SIGTERM, self._previous)

    def _handle(self, number, frame) -> None:
        self.received = True
        if self._interruptible:
            self._interruptible = False
            raise Preempted

    def check(self) -> None:
        """Raise if the notice has come, to this process or another; all processes must call it at the same points."""
        if distributed.anywhere(self.received):
            raise Preempted

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Inside, the notice interrupts whatever runs: for work that a resumed run does again anyway (rollouts, rewards).
        One of several processes waits for the end of it: the others could not go on without its part."""
        self._interruptible = (
            not distributed.started()
        )  # before the look: nothing that comes meanwhile is missed
        try:
            self.check()
            yield
        finally:
            self._interruptible = False
