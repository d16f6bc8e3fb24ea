"""Strategic grams: mining, finding, counting; and the branching factor."""

import jax.numpy as jnp
import numpy as np
import pytest

from entjax.analysis.branching_factor import branching_factor
from entjax.analysis.strategic_grams import Gram, detect, k_means, match_text, mine, pack, semantic_entropy
from entjax.vocab import Row


def solutions(seed=0):
    """Twenty random token sequences; 12 contain (91, 92, 93), all start with (7, 7, 7), one repeats (81, 82, 83)."""
    rng = np.random.default_rng(seed)
    out = []
    for i in range(20):
        body = [7, 7, 7, *rng.integers(10, 60, 30).tolist()]
        body += [91, 92, 93] if i < 12 else []
        body += [81, 82, 83] * (9 if i in (0, 1) else 0)
        out.append(body + rng.integers(10, 60, 5).tolist())
    return out


def test_mining_finds_what_recurs_across_and_not_inside_solutions():
    grams = mine(solutions(), lengths=(3,), clusters=3, per_cluster=1)
    assert grams[0] == Gram((91, 92, 93), 0, pytest.approx(0.6))
    assert all(g.symbols != (7, 7, 7) for g in grams), "boilerplate in every solution is left out"
    by = {g.symbols: g.score for g in mine(solutions(), lengths=(3,), low=0.1, clusters=50)}
    assert by[(81, 82, 83)] == pytest.approx(0.1 / 9), "repetition inside a solution costs"
    assert mine([[1, 2]], lengths=(3,)) == []


def test_mining_words_and_clusters():
    texts = [
        "let me check that",
        "so let me check now",
        "let me verify that",
        "ok let me verify it",
        "so what else",
    ]
    embed = lambda grams: np.array([[float("check" in g), float("verify" in g)] for g in grams])
    grams = mine([t.split() for t in texts], lengths=(3,), low=0.3, clusters=2, per_cluster=3, embed=embed)
    assert {g.symbols: g.cluster for g in grams} == {("let", "me", "check"): 0, ("let", "me", "verify"): 1}
    x = np.array([[0.0, 0], [0.1, 0], [5, 5], [5, 5.1], [9, 0]])
    labels = k_means(x, 3)
    assert labels[0] == labels[1] and labels[2] == labels[3] and len(set(labels)) == 3


def test_detection_equals_loops():
    rng = np.random.default_rng(1)
    tokens, mask = rng.integers(0, 4, (6, 15)), rng.random((6, 15)) < 0.9
    grams = [(1, 2), (0, 3, 1), (2, 2, 2, 1)]
    expected = np.zeros(mask.shape, bool)
    for b, t in np.ndindex(*mask.shape):
        for gram in grams:
            end = t + len(gram)
            if end <= 15 and mask[b, t:end].all() and tuple(tokens[b, t:end]) == gram:
                expected[b, t:end] = True
    found = detect(jnp.asarray(tokens, jnp.int32), jnp.asarray(mask), pack(grams))
    np.testing.assert_array_equal(found, expected)
    assert 0 < expected.sum() < mask.sum()
    with pytest.raises(ValueError, match="at least one gram"):
        pack([])


def test_text_is_matched_at_word_boundaries_across_pieces():
    pieces = ["So", " Let", " me", " th", "ink", " about", " pallet", " men"]
    grams = ["let me think", "let me"]
    np.testing.assert_array_equal(match_text(pieces, ["let me think"]), [0, 1, 1, 1, 1, 0, 0, 0])
    np.testing.assert_array_equal(match_text(pieces, grams), [0, 1, 1, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(match_text(pieces, grams, tight=False), [1, 1, 1, 0, 0, 0, 0, 0])
    assert not match_text(pieces, ["let men"]).any() and not match_text(pieces, []).any()


def test_semantic_entropy_of_known_frequencies():
    assert semantic_entropy([0, 1, 2, 3] * 5) == pytest.approx(np.log(4))
    assert semantic_entropy([5, 5, 5]) == 0 and semantic_entropy([]) == 0
    assert semantic_entropy([0, 0, 0, 1]) == pytest.approx(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25)))


def test_branching_factor_counts_the_nucleus():
    logits = jnp.log(jnp.asarray([[0.5, 0.3, 0.15, 0.05], [0.25] * 4, [0.97, 0.01, 0.01, 0.01]]))
    row = Row(logits, jnp.zeros(3, jnp.int32))
    np.testing.assert_array_equal(branching_factor(0.94)(row), [3, 4, 1])
    np.testing.assert_array_equal(branching_factor(0.7)(row), [2, 3, 1])
    with pytest.raises(ValueError, match=r"got 1\.5"):
        branching_factor(1.5)
