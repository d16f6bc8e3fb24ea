"""pass@k and maj@k against enumeration, closed forms and the golden numbers."""

import itertools
import math
import random
from fractions import Fraction

import numpy as np
import pytest

from entjax.analysis.passk import (
    avg_at_k,
    bootstrap_at_k,
    maj_at_k,
    maj_at_k_first,
    majority,
    pass_at_k,
)
from tests.golden.harness import golden


@golden("eval_passk")
def test_golden(case):
    correct, answers = case.x["correct"], case.x["answers"].tolist()
    n, ks = correct.shape[1], case.x["ks"].tolist()
    case.close(avg_at_k(correct), "out_avg_at_k")
    case.close(np.stack([pass_at_k(n, correct.sum(1), k) for k in ks], axis=1), "out_pass_at_k")
    case.close([[maj_at_k(row, 0, k) for k in ks] for row in answers], "out_maj_at_k_tiesplit")
    case.close([[maj_at_k_first(row, 0, k) for k in ks] for row in answers], "out_maj_at_k_first")
    case.close([float(majority(row) == 0) for row in answers], "out_cons_at_n")
    case.close([bootstrap_at_k(row, 0, 4) for row in answers], "out_verl_bootstrap4")


def test_the_bootstrap_is_below_pass_at_k():
    found = bootstrap_at_k([0, 0] + [None] * 3 + [1, 2, 3], 0, 4, draws=20_000)
    assert found.best == pytest.approx(1 - 0.75**4, abs=0.02)  # 0.684
    assert found.best < pass_at_k(8, 2, 4) - 0.05  # 0.786
    assert found.worst == pytest.approx(0.25**4, abs=0.005)
    assert found.best_std == pytest.approx((found.best * (1 - found.best)) ** 0.5)
    assert bootstrap_at_k([None, None], None, 3) == (0,) * 6
    with pytest.raises(ValueError, match="k >= 1"):
        bootstrap_at_k([0, 1], 0, 0)


@pytest.mark.parametrize("n", [1, 4, 9])
def test_pass_at_k_is_the_mean_over_all_subsets(n):
    for c, k in itertools.product(range(n + 1), range(1, n + 1)):
        subsets = list(itertools.combinations([True] * c + [False] * (n - c), k))
        assert pass_at_k(n, c, k) == pytest.approx(np.mean([any(s) for s in subsets]), abs=1e-14)


def test_pass_at_k_of_many_samples_is_exact_where_binomials_overflow():
    n, c, k = 4096, np.array([1, 7, 4000]), 512
    exact = [float(1 - Fraction(math.comb(n - int(ci), k), math.comb(n, k))) for ci in c]
    np.testing.assert_allclose(pass_at_k(n, c, k), exact, rtol=1e-12)
    np.testing.assert_allclose(pass_at_k(8, np.array([[0, 2], [8, 1]]), 1), [[0, 0.25], [1, 0.125]])


def test_majority_with_shared_ties_is_the_mean_over_subsets_and_tied_answers():
    rng = random.Random(0)
    for _ in range(40):
        answers = [rng.choice([0, 1, 2, 3, None]) for _ in range(7)]
        for k in (1, 3, 4, 7):
            total = []
            for subset in itertools.combinations(answers, k):
                votes = {a: subset.count(a) for a in set(subset) - {None}}
                best = [a for a in votes if votes[a] == max(votes.values())]
                total.append((0 in best) / max(len(best), 1))
            assert maj_at_k(answers, 0, k) == pytest.approx(np.mean(total), abs=1e-12)


def test_majority_limits():
    assert maj_at_k(["a"] * 6 + ["b"] * 2, "a", 8) == 1.0 == maj_at_k_first(["a"] * 6 + ["b"] * 2, "a", 8)
    assert maj_at_k([None] * 4, "a", 2) == 0.0 and maj_at_k_first([None] * 4, None, 2) == 0.0
    assert maj_at_k(list("aabb"), "a", 1) == 0.5 == avg_at_k([1, 1, 0, 0])
    assert majority([None, "b", "a", "a", "b"]) == "b" and majority([None]) is None
    # 300 samples: far beyond enumeration, and the larger camp wins nearly surely
    assert 0.99 < maj_at_k(["a"] * 200 + ["b"] * 100, "a", 101) <= 1.0


@pytest.mark.parametrize(
    "call,words",
    [
        (lambda: pass_at_k(4, 2, 5), "k = 5 and n = 4"),
        (lambda: pass_at_k(4, 2, 0), "k = 0"),
        (lambda: pass_at_k(4, np.array([1, 5]), 2), "holds 1 to 5"),
        (lambda: pass_at_k(4, 0.5, 2), "whole numbers"),
        (lambda: maj_at_k([1, 2], 1, 3), "k = 3 and n = 2"),
        (lambda: maj_at_k_first(list(range(60)), 1, 30), "use maj_at_k"),
    ],
)
def test_impossible_questions_are_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()
