"""SIGTERM in the instants that are easily missed."""

import os
import signal

import pytest

from entjax import distributed
from entjax.preemption import Notice, Preempted


def test_a_notice_that_comes_while_it_is_looked_for_interrupts(monkeypatch):
    def looking(received):
        os.kill(os.getpid(), signal.SIGTERM)
        return received

    with Notice() as notice:
        monkeypatch.setattr(distributed, "anywhere", looking)
        worked = False
        with pytest.raises(Preempted), notice.at_once():
            worked = True
        assert notice.received and not worked
