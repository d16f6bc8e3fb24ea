"""A run that is killed again and again ends as the run that was left alone. The long versions are slow."""

import signal

import pytest

from tests.faults import kills

KILL, TERM = signal.SIGKILL, signal.SIGTERM


def test_three_kills_lose_nothing(tmp_path):
    """In the middle of a rollout, of an evaluation between two steps, of a save; everything that has a state is in play."""
    plan = [("rollout", 4, KILL), ("evaluate", 1, TERM), ("save", 1, KILL)]
    found = kills.study("everything", steps=7, plan=plan, folder=tmp_path)
    assert [k["reached"] for k in found["kills"]] == [True] * 3, found
    assert [k["codes"] for k in found["kills"]] == [[-9], [143], [-9]], found
    assert found["differences"] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plain", "everything", "pair"])
def test_twenty_five_kills_lose_nothing(name, tmp_path):
    found = kills.study(name, kills=25, steps=40, folder=tmp_path)
    assert len(found["kills"]) == 25 and found["differences"] == [], found
    assert {k["signal"] for k in found["kills"]} == {"SIGKILL", "SIGTERM"}
