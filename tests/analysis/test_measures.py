"""The analysis measures at points where their values are known in closed form, and their inputs' edges."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from entjax import features, vocab
from entjax.advantages.divergence_weights import divergence_weight
from entjax.analysis import conditional_entropy, entropy_law, inv_entropy, semantic_entropy, spectral
from entjax.analysis.sparse_but_critical import jensen_shannon, rank_in_base, switched, top_k_overlap

# Semantic entropy --------------------------------------------------------------------------------------------------------------


def test_semantic_entropy_of_equal_clusters_and_of_agreement():
    labels = np.repeat(np.arange(4), 3)
    np.testing.assert_allclose(semantic_entropy.discrete(labels), math.log(4))
    np.testing.assert_allclose(semantic_entropy.by_likelihood(labels, np.full(12, -2.5)), math.log(4))
    assert semantic_entropy.discrete([7, 7, 7]) == 0 == semantic_entropy.by_likelihood([7, 7], [-1.0, -800.0])


def test_snne_approaches_the_number_of_like_answers():
    """With similarity 1 inside clusters and 0 outside, a cold tau leaves log(cluster size) + 1/tau per answer."""
    labels = np.array([0, 0, 0, 1, 1, 2])
    same = (labels[:, None] == labels[None, :]).astype(float)
    tau = 0.01
    want = -np.mean(np.log([3, 3, 3, 2, 2, 1]) + 1 / tau)
    np.testing.assert_allclose(semantic_entropy.snne(same, tau=tau), want, rtol=1e-9)
    np.testing.assert_allclose(semantic_entropy.snne(same, labels, tau=tau, variant="full"), 0, atol=1e-9)
    alone = semantic_entropy.snne(np.eye(3), [0, 1, 2], variant="only_num", itself=False)
    np.testing.assert_allclose(alone, -math.log(1e-8))


def test_snne_needs_what_it_compares():
    with pytest.raises(ValueError, match="pass labels"):
        semantic_entropy.snne(np.eye(2), variant="full")
    with pytest.raises(ValueError, match="'half'"):
        semantic_entropy.snne(np.eye(2), variant="half")
    with pytest.raises(ValueError, match=r"got 0\.0"):
        semantic_entropy.snne(np.eye(2), tau=0.0)


# Conditional entropy -----------------------------------------------------------------------------------------------------------


def test_reduction_of_a_straight_line():
    found = conditional_entropy.reduction([3.0, 2.5, 2.0, 1.5])
    np.testing.assert_allclose(found.utility, 0.5)
    np.testing.assert_allclose([found.slope, found.monotone], [-0.5, 1.0])
    assert conditional_entropy.reduction([1.0, 2.0, 1.5]).monotone == 0.5


def test_answer_entropy_looks_at_the_answer_only():
    entropy = np.array([[np.nan, 1.0, 3.0], [2.0, np.inf, np.nan]])
    mask = np.array([[False, True, True], [True, False, False]])
    np.testing.assert_array_equal(conditional_entropy.answer_entropy(entropy, mask), [2.0, 2.0])
    with pytest.raises(ValueError, match=r"rows \[1\]"):
        conditional_entropy.answer_entropy(np.ones((2, 2)), np.array([[True, False], [False, False]]))
    with pytest.raises(ValueError, match="got 1 entropies"):
        conditional_entropy.reduction([1.0])


# Inv-Entropy -------------------------------------------------------------------------------------------------------------------


def test_inv_entropy_at_its_ends():
    n = 6
    certain = inv_entropy.inv_entropy(np.eye(n), np.eye(n))
    assert certain.x_given_y == 0 and certain.wasserstein == 0
    np.testing.assert_allclose(certain.p_x_given_y, np.eye(n))
    vague = inv_entropy.inv_entropy(np.ones((n, n)), np.ones((n, n)))
    np.testing.assert_allclose([vague.x_given_y, vague.y_given_x], math.log(n))
    rng = np.random.default_rng(0)
    found = inv_entropy.inv_entropy(rng.uniform(0.1, 1, (n, n)), rng.uniform(0.1, 1, (n, n)))
    np.testing.assert_allclose(found.p_x_given_y.sum(0), 1)
    np.testing.assert_allclose(found.p_y_given_x.sum(1), 1)
    with pytest.raises(ValueError, match="positive entry"):
        inv_entropy.inv_entropy(np.zeros((2, 2)), np.eye(2))


# Spectra -----------------------------------------------------------------------------------------------------------------------


def test_spectra_of_orthogonal_and_of_one_direction():
    rng = np.random.default_rng(1)
    basis = np.linalg.qr(rng.normal(size=(12, 5)))[0]
    np.testing.assert_allclose(spectral.rankme(basis), 5, rtol=1e-4)
    np.testing.assert_allclose(spectral.matrix_entropy(basis), math.log(5), rtol=1e-9)
    line = np.outer(rng.normal(size=12), rng.normal(size=5))
    np.testing.assert_allclose(spectral.rankme(line), 1, rtol=1e-4)
    np.testing.assert_allclose(
        [spectral.effective_rank(line), spectral.matrix_entropy(line) + 1], 1, rtol=1e-6
    )
    for features_ in (basis, 100 * basis):  # only the diffusion entropy depends on the scale
        np.testing.assert_allclose(spectral.rankme(features_), 5, rtol=1e-4)
    assert spectral.diffusion_entropy(basis) < 0.1 < spectral.diffusion_entropy(100 * basis)
    np.testing.assert_allclose(spectral.diffusion_entropy(1e6 * basis), math.log2(12), rtol=1e-6)


def test_alpha_req_recovers_a_power_law():
    rng = np.random.default_rng(2)
    n, d = 64, 8
    white = np.linalg.qr(rng.normal(size=(n, d)) - 0)[0]
    white = np.linalg.qr(white - white.mean(0))[0]
    features_ = white * np.arange(1, d + 1) ** (-1.3 / 2)
    np.testing.assert_allclose(spectral.alpha_req(features_ - features_.mean(0), 1, d), 1.3, rtol=0.02)
    with pytest.raises(ValueError, match="got 3 and 3"):
        spectral.alpha_req(features_, 3, 3)


# The law -----------------------------------------------------------------------------------------------------------------------


def test_the_law_finds_its_own_parameters_and_weights_drop_points():
    h = np.linspace(0.1, 2.0, 20)
    r = 0.6 - 0.08 * np.exp(h)
    law = entropy_law.fit(h, r)
    np.testing.assert_allclose([law.a, law.b, law.ceiling, law.r2], [0.08, 0.6, 0.52, 1.0], rtol=1e-9)
    np.testing.assert_allclose(law.at(h), r, rtol=1e-9)
    spoiled = r.copy()
    spoiled[:4] = 0
    again = entropy_law.fit(h, spoiled, np.r_[np.zeros(4), np.ones(16)])
    np.testing.assert_allclose([again.a, again.b], [0.08, 0.6], rtol=1e-9)
    assert entropy_law.fit(h, spoiled).rmse > 0.05 and math.isnan(entropy_law.fit(h, np.full(20, 0.5)).r2)
    with pytest.raises(ValueError, match="two different"):
        entropy_law.fit([1.0, 1.0], [0.1, 0.2])


# Divergences -------------------------------------------------------------------------------------------------------------------


def rows(seed=0, shape=(4, 6), size=9):
    rng = np.random.default_rng(seed)
    make = lambda: jnp.asarray(rng.normal(0, 2, (*shape, size)), jnp.float32)
    return make(), make()


def test_jensen_shannon_is_bounded_symmetric_and_zero_for_equal_policies():
    a, b = rows()
    token = jnp.zeros(a.shape[:-1], jnp.int32)
    js = lambda x, y: np.asarray(jensen_shannon(vocab.Row(x, token, {"ref_logits": y})))
    np.testing.assert_allclose(js(a, b), js(b, a), rtol=1e-5)
    assert (js(a, b) > 0).all() and (js(a, b) < math.log(2)).all()
    np.testing.assert_allclose(js(a, a + 3), 0, atol=1e-6)
    apart = jnp.where(jnp.arange(9) < 4, a, vocab.FORBIDDEN), jnp.where(jnp.arange(9) < 4, vocab.FORBIDDEN, a)
    np.testing.assert_allclose(js(*apart), math.log(2), rtol=1e-6)
    mask = jnp.asarray(np.random.default_rng(1).uniform(size=a.shape[:-1]) < 0.5)
    np.testing.assert_array_equal(switched(js(a, b), mask, 0.2), np.asarray(mask) & (js(a, b) > 0.2))


def test_ranks_and_overlaps_by_sorting():
    policy, base = rows(3)
    row = vocab.Row(policy, jnp.zeros(policy.shape[:-1], jnp.int32), {"ref_logits": base})
    order, base_order = np.argsort(-np.asarray(policy), -1), np.argsort(-np.asarray(base), -1)
    rank, overlap = np.asarray(rank_in_base(row)), np.asarray(top_k_overlap(3)(row))
    for i, j in itertools.product(range(4), range(6)):
        assert rank[i, j] == base_order[i, j].tolist().index(order[i, j, 0])
        np.testing.assert_allclose(overlap[i, j], len({*order[i, j, :3]} & {*base_order[i, j, :3]}) / 3)
    assert top_k_overlap(3) is top_k_overlap(3)
    with pytest.raises(ValueError, match="got 0"):
        top_k_overlap(0)


def test_the_features_work_in_a_sweep_over_chunks():
    rng = np.random.default_rng(5)
    hidden, other = (jnp.asarray(rng.normal(size=(3, 7, 4)), jnp.float32) for _ in range(2))
    head = jnp.asarray(rng.normal(size=(4, 11)), jnp.float32)
    wanted = {
        "js": jensen_shannon,
        "rank": rank_in_base,
        "overlap": top_k_overlap(2),
        "kl": features.reverse_kl,
    }
    tokens = jnp.zeros((3, 7), jnp.int32)
    side = {"ref_hidden": vocab.before(other)}
    found = vocab.features(hidden, head, tokens, wanted, side, reference_head=head, chunk=6)
    whole = vocab.Row(vocab.before(hidden) @ head, tokens, {"ref_logits": vocab.before(other) @ head})
    for name, feature in wanted.items():
        np.testing.assert_allclose(found[name], feature(whole), rtol=1e-4, atol=1e-5)
    assert (found["js"][:, 1:] > 0).all()


def test_no_divergence_weighs_one():
    assert float(divergence_weight(jnp.zeros(()), 1.0, 5.0)) == 1.0
    assert float(jax.jit(divergence_weight)(jnp.asarray(1e3), 1.0, -5.0)) == 0.5
