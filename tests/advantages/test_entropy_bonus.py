"""Entropy-shaped advantage (RwE)."""

import numpy as np
import pytest

import entjax as ej
from entjax.advantages import entropy_bonus
from tests.advantages.situation import apply, batch, on


def test_bonus_is_capped_never_lowers_and_keeps_the_sign():
    rollout, signal = batch()
    before, after = (
        on(rollout, x) for x in (signal.advantage, apply(entropy_bonus(), rollout, signal).advantage)
    )
    psi = after - before
    assert (
        (psi >= 0).all()
        and (psi <= np.abs(before) / 2 + 1e-7).all()
        and (np.sign(after) == np.sign(before)).all()
    )
    entropy = on(rollout, rollout.entropy)
    free = 0.4 * entropy < np.abs(before) / 2
    assert free.any() and not free.all()
    np.testing.assert_allclose(psi[free], 0.4 * entropy[free], atol=1e-6)


def test_alpha_zero_is_the_base_method_and_kappa_one_can_null_a_penalty():
    rollout, signal = batch()
    np.testing.assert_array_equal(
        apply(entropy_bonus(alpha=0.0), rollout, signal).advantage, signal.advantage
    )
    after = on(rollout, apply(entropy_bonus(alpha=1e3, kappa=1.0), rollout, signal).advantage)
    before = on(rollout, signal.advantage)
    np.testing.assert_allclose(after[before < 0], 0, atol=1e-6)


def test_current_entropy_in_a_step_chain_behaviour_entropy_in_a_rollout_chain():
    objective = ej.Objective(per_step=entropy_bonus())
    assert "entropy" in objective.per_step.reads and "entropy" not in objective.remembers
    assert not ej.Objective(per_rollout=entropy_bonus()).remembers, "the rollout already holds its entropy"


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="kappa > 0, got 0"):
        entropy_bonus(kappa=0)
    with pytest.raises(ValueError, match="alpha >= 0, got -1"):
        entropy_bonus(alpha=-1)
