"""What the papers' rules for branching promise, on the functions that decide it."""

import numpy as np
import pytest

from entjax.rollouts.agentic import branches as agentic_branches
from entjax.rollouts.agentic import initial_rollouts
from entjax.rollouts.arpo import branches as arpo_branches
from entjax.rollouts.cure import critical_positions
from entjax.rollouts.echo_rules import EchoRules, width

U = (np.arange(10_000) + 0.5) / 10_000  # every quantile of the uniform numbers once


@pytest.mark.parametrize("rise", [-0.9, -0.2, 0.0, 0.3, 2.0])
def test_arpo_branches_with_probability_p_plus_w_times_the_rise(rise):
    share = arpo_branches(U, rise, weight=0.4, probability=0.3).mean()
    assert share == pytest.approx(np.clip(0.3 + 0.4 * rise, 0, 1), abs=1e-3)


def test_agentic_branching_tires():
    """At a rise of 0 the probability is 1 - p / (1 - .05 c), so nothing branches after ten rounds in a row at p = .5."""
    shares = [agentic_branches(U, 0.0, c, weight=0.2, probability=0.5).mean() for c in (0, 2, 5, 9, 10, 30)]
    np.testing.assert_allclose(shares, [1 - 0.5 / (1 - 0.05 * c) for c in (0, 2, 5, 9)] + [0, 0], atol=1e-3)


def test_agentic_budget_grows_with_the_uncertainty_of_the_prompt():
    gap = np.linspace(-30, 30, 61)
    m = initial_rollouts(gap, np.zeros(61), 12)
    assert (np.diff(m) >= 0).all() and m[0] == 1 and m[-1] == 12 and m[30] == 12 // 2 + 1


def test_cure_takes_admissible_tokens_of_highest_entropy():
    rng = np.random.default_rng(0)
    entropy, admissible = rng.random(30), rng.random(30) < 0.5
    allowed = [i for i in range(1, 30) if admissible[i]]
    assert critical_positions(entropy, admissible, 1).tolist() == [max(allowed, key=lambda i: entropy[i])]
    best = sorted(allowed, key=lambda i: -entropy[i])
    assert critical_positions(entropy, admissible, 5).tolist() == best[:5]
    assert critical_positions(entropy, np.zeros(30, bool), 3).tolist() == [0, -1, -1]


def test_echo_width_grows_with_entropy_and_shrinks_with_confidence():
    rules = EchoRules(entropy_high=2.0, branch_threshold=1.7, max_branches=6)
    by_entropy = [width(h, 1.7, rules) for h in np.linspace(0, 6, 30)]
    by_confidence = [width(2.5, c, rules) for c in np.linspace(1.6, 12, 30)]
    assert (np.diff(by_entropy) >= 0).all() and (np.diff(by_confidence) <= 0).all()
    assert (by_entropy[0], by_entropy[-1]) == (1, 6) and by_confidence[-1] == 1 < by_confidence[0]
