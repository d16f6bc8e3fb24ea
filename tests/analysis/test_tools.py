"""The smaller measures against scipy, scikit-like definitions and cases with known answers."""

import math

import numpy as np
import pytest
from scipy import stats

from entjax.analysis import entropy_law, judger, token_entropy
from entjax.analysis.agreement import pearson, spearman
from entjax.analysis.boundary import boundary
from entjax.analysis.strategy_labels import EASY, HARD, NORMAL, STRATEGIES, strategy_labels

rng = np.random.default_rng(0)
MASK = rng.random((7, 9)) < 0.7
ENTROPY = rng.exponential(size=(7, 9))


def test_correlations_are_scipys_with_ties():
    x, y = rng.normal(size=50), rng.integers(0, 5, 50)
    np.testing.assert_allclose(pearson(x, y), stats.pearsonr(x, y).statistic)
    np.testing.assert_allclose(spearman(x, y), stats.spearmanr(x, y).statistic)
    assert math.isnan(pearson(x, np.ones(50)))
    with pytest.raises(ValueError, match="one length"):
        pearson(x, y[:3])


def test_quantiles_and_concentration_of_token_entropy():
    valid = ENTROPY[MASK]
    found = token_entropy.quantiles(ENTROPY, MASK, (0.0, 0.8, 1.0))
    np.testing.assert_allclose(list(found.values()), [valid.min(), np.percentile(valid, 80), valid.max()])
    np.testing.assert_allclose(token_entropy.concentration(np.ones((5, 4)), np.ones((5, 4))), 0.2)
    one = np.zeros((5, 4))
    one[2, 3] = 3.0
    assert token_entropy.concentration(one, np.ones((5, 4))) == 1.0
    with pytest.raises(ValueError, match="mask is empty"):
        token_entropy.quantiles(ENTROPY, np.zeros_like(MASK))


def test_forks_are_the_tokens_of_high_entropy():
    tokens = np.array([[1, 2, 3, 2], [1, 2, 3, 9]])
    entropy = np.array([[0.1, 2.0, 0.2, 0.3], [0.1, 3.0, 0.2, 9.0]])
    mask = np.array([[1, 1, 1, 1], [1, 1, 1, 0]], bool)  # the last entropy does not count
    assert token_entropy.forking(entropy, mask, 0.25).sum() == 2
    found = token_entropy.forks(tokens, entropy, mask, lambda ids: chr(96 + ids[0]), 0.25)
    assert (found[0].token, found[0].count, found[0].forks) == ("b", 3, 2)
    np.testing.assert_allclose(found[0].entropy, (2.0 + 3.0 + 0.3) / 3)
    assert {f.token for f in found} == {"a", "b", "c"}


def test_labels_of_questions():
    accuracy, entropy = np.array([0.8, 0.8, 0.5, 0.2, 0.19]), np.array([0.3, 0.31, 0.0, 9.0, 0.0])
    found = strategy_labels(accuracy, entropy, alpha=0.8, beta=0.3, gamma=0.2)
    assert found.tolist() == [NORMAL, EASY, EASY, EASY, HARD]
    assert (
        STRATEGIES[HARD] == (0.4, 0.5) and STRATEGIES[NORMAL] == (0.8, 1.0) and STRATEGIES[EASY] == (0.5, 0.4)
    )
    with pytest.raises(ValueError, match=r"gamma=0\.9"):
        strategy_labels(accuracy, entropy, alpha=0.8, beta=0.3, gamma=0.9)


def test_the_boundary_of_a_policy_that_is_surer_and_narrower():
    base = np.zeros((2, 8), bool)
    base[0, :4], base[1, 0] = True, True  # both prompts now and then
    tuned = np.zeros((2, 8), bool)
    tuned[0] = True  # one always, the other never
    found = boundary(base, tuned)
    assert (found.ks, found.crossing) == ([1, 2, 4, 8], 2)
    np.testing.assert_allclose(found.base, [(4 + 1) / 16, (11 / 14 + 1 / 4) / 2, (69 / 70 + 1 / 2) / 2, 1.0])
    np.testing.assert_allclose(found.tuned, 0.5)
    assert (found.only_base, found.only_tuned, found.both, found.neither) == (1, 0, 1, 0)
    assert boundary(tuned, tuned).crossing is None
    with pytest.raises(ValueError, match="same prompts"):
        boundary(base, tuned[:1])


def test_entropy_features_and_the_judges_choices():
    entropy = np.array([[1.0, 2.0, 3.0, 99.0], [4.0, 99.0, 99.0, 99.0]])
    mask = np.array([[1, 1, 1, 0], [1, 0, 0, 0]], bool)
    found = dict(zip(judger.NAMES, judger.entropy_features(entropy, mask).T))
    np.testing.assert_allclose(found["slope"], [stats.linregress([0, 1, 2], [1, 2, 3]).slope, 0])
    np.testing.assert_allclose(found["q0.9"], [2.8, 4.0])
    np.testing.assert_allclose([found["total"], found["length"], found["last"]], [[6, 4], [3, 1], [3, 4]])
    p = np.array([[0.2, 0.9, 0.95], [0.1, 0.3, 0.2]])
    assert judger.best_of(p).tolist() == [2, 1]
    row, used = judger.first_sure(p, 0.8)
    assert (row.tolist(), used.tolist()) == ([1, 1], [2, 3])


def test_a_forecast_of_a_run_on_the_law_is_right_and_off_it_is_told():
    h = np.linspace(1.0, 0.1, 30)
    r = 0.9 - 0.2 * np.exp(h)
    found = entropy_law.forecast(h, r, share=1 / 3)
    assert found.points == 10 and found.error < 1e-9 < found.constant and found.r2 > 0.999
    bent = np.where(np.arange(30) < 10, r, r[9])  # the reward stops rising
    assert entropy_law.forecast(h, bent).error > 0.1
    with pytest.raises(ValueError, match="after the first"):
        entropy_law.forecast(h[:2], r[:2])
