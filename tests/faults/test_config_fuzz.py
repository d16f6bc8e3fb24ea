"""Mutations of the shipped configs: accepted, or refused before anything is compiled by a sentence that names the key."""

import pytest

from tests.faults import fuzz

FINE = {"accepted", "refused"}


def complaints(found):
    return [(outcome, case) for outcome, cases in found.items() if outcome not in FINE for case in cases]


def test_sixty_mutations():
    found = fuzz.study(60, run=False, seed=1)
    assert not complaints(found)
    assert len(found["refused"]) > 20 and found["accepted"]


@pytest.mark.slow
def test_five_hundred_mutations():
    found = fuzz.study(500, run=False)
    assert not complaints(found)
    assert sum(map(len, found.values())) == 500


@pytest.mark.slow
def test_what_is_accepted_takes_a_step():
    """Sixty mutations whose configs are really run for one step where they are accepted."""
    found = fuzz.study(60, run=True, seed=2)
    assert not [c for c in complaints(found) if c[0] != "ran, then stopped with advice"]
