"""What changes a group advantage: SEED's factor, Entrocraft's filter, the balance of signs, SPEAR's replay."""

import jax.numpy as jnp
import numpy as np
import pytest

import entjax as ej
from entjax.advantages.replay_baseline import History
from tests import tiny
from tests.advantages.test_group import batch, per_row, signal_of

A = ej.advantages
FOUR = np.repeat(np.arange(2), 4)


def seed_factor(cluster, **how):
    ones = batch(np.ones(8), FOUR, cluster=np.asarray(cluster, np.int32))
    return per_row(A.seed(**how), ones)


def test_seed_without_strength_changes_nothing():
    np.testing.assert_array_equal(seed_factor([0, 1, 2, 3, 0, 0, 1, -1], alpha=0.0), 1)


@pytest.mark.parametrize("shape", ["linear", "exp", "reciprocal"])
@pytest.mark.parametrize("probability", ["counts", "likelihood"])
def test_seed_factor_falls_with_the_number_of_clusters(shape, probability):
    r = batch(np.ones(8), FOUR, cluster=np.array([0, 0, 0, 0, 0, 1, 0, 1], np.int32))
    r = r.replace(old_logp=jnp.full_like(r.old_logp, -1.0))  # equally likely answers
    factor = lambda cluster: per_row(
        A.seed(0.5, shape=shape, probability=probability),
        r.replace(extra={"cluster": jnp.asarray(cluster, jnp.int32)}),
    )
    one, two, four = factor([7] * 8)[0], factor([0, 1, 0, 1] * 2)[0], factor([0, 1, 2, 3] * 2)[0]
    of = {"linear": lambda x: 1 - x, "exp": lambda x: np.exp(-x), "reciprocal": lambda x: 1 / (1 + x)}[shape]
    np.testing.assert_allclose([one, two, four], [1, of(0.25), of(0.5)], rtol=1e-5)


def test_seed_unreadable_answers_are_clusters_of_their_own():
    np.testing.assert_allclose(seed_factor([-1] * 4 + [0, 1, 2, 3], alpha=1.0), 0, atol=1e-6)


def test_seed_empty_rows_have_no_likelihood():
    """A row without tokens adds nothing to its cluster: the factor is that of the rows with tokens, all in one cluster."""
    r = batch(np.ones(8), FOUR, cluster=np.array([0, 0, 0, 1] * 2, np.int32))
    r = r.replace(mask=r.mask.at[3].set(False), old_logp=jnp.full_like(r.old_logp, -50.0))
    factor = np.asarray(signal_of(A.seed(1.0, probability="likelihood"), r)[0].advantage).max(axis=1)
    np.testing.assert_allclose(factor[:3], 1, atol=1e-6)
    assert factor[3] == 0 and (factor[4:] < 0.9).all() and (factor[4:] > 0).all()


def test_seed_mc_estimator():
    """Clusters of 3 and 1: -1/2 (log 3/4 + log 1/4)."""
    factor = seed_factor([0, 0, 0, 1] * 2, alpha=1.0, estimator="mc")
    expected = 1 + (np.log(3 / 4) + np.log(1 / 4)) / 2 / np.log(4)
    np.testing.assert_allclose(factor, expected, rtol=1e-5)


def filtered(low, high, **how):
    r = tiny.rollout()
    base = signal_of(A.group_normalize(), r)[0]
    return r, base, signal_of(A.entrocraft(low, high, **how), r, signal=base)[0]


def test_entrocraft_leaves_everything_inside_the_band():
    _, base, out = filtered(-np.inf, np.inf)
    np.testing.assert_array_equal(out.advantage, base.advantage)
    np.testing.assert_array_equal(out.mask, base.mask)


@pytest.mark.parametrize(("low", "high", "sign"), [(5.0, 6.0, -1), (0.1, 0.2, 1)])
def test_entrocraft_keeps_the_sign_that_steers_back(low, high, sign):
    r, base, out = filtered(low, high)
    assert (sign * out.advantage >= 0).all() and (out.advantage != 0).any()
    np.testing.assert_array_equal(out.mask, base.mask & (sign * base.advantage >= 0))
    assert signal_of(ej.averages.token_mean(), r, signal=out)[0].scale.sum() == pytest.approx(1.0)
    np.testing.assert_array_equal(filtered(low, high, renormalize=False)[2].mask, base.mask)


def test_entrocraft_may_refuse_a_whole_batch():
    r = tiny.rollout().replace(reward=jnp.ones(8))
    t = ej.chain(A.raw(), A.entrocraft(5.0, 6.0), ej.averages.token_mean())
    out = signal_of(t, r)[0]
    assert not out.mask.any() and (out.scale == 0).all() and (out.advantage == 0).all()


def test_entrocraft_refuses_an_inverted_band():
    with pytest.raises(ValueError, match=r"0\.7"):
        A.entrocraft(0.7, 0.3)


def test_two_baselines_are_refused():
    with pytest.raises(ValueError, match="baseline"):
        ej.chain(A.group_normalize(), A.entrocraft(0.1, 0.2, variant="released"))


def test_signed_scale_is_raft_and_negative_reinforcement():
    r = batch(np.array([1, -1, 0.5, 1, -1, 1, -1, 0]))
    reward = np.asarray(r.reward)
    drop = lambda **how: per_row(ej.chain(A.raw(), A.signed_scale(**how)), r)
    np.testing.assert_allclose(drop(positive=1.0, negative=0.0), np.maximum(reward, 0))
    np.testing.assert_allclose(drop(positive=0.0), np.minimum(reward, 0))


def test_w_reinforce_pushes_more_than_it_pulls():
    reward = np.array([1, 0, 1, 1, 0, 0, 0, 1.0])
    of = lambda **how: per_row(ej.recipes.w_reinforce(**how).per_rollout, batch(reward))
    np.testing.assert_allclose(of(), np.where(reward > 0, 0.1, -1.0), rtol=1e-6)
    np.testing.assert_array_equal(of(positive=0.0), np.where(reward > 0, 0, -1))  # NSR
    np.testing.assert_array_equal(of(positive=1.0, negative=0.0), reward)  # RAFT


def test_balance_leaves_its_bound_at_once():
    """After 50 batches far above the target the integral sits at its bound; below the target it moves the first time."""
    t = A.entropic_balance(0.5, kp=0.0, ki=0.5, bound=0.8)
    at = lambda h: tiny.rollout().replace(entropy=jnp.full((8, 11), h))
    state = None
    for _ in range(50):
        _, state = signal_of(t, at(2.0), state=state)
    assert float(state["own"].integral) == pytest.approx(0.8)
    _, state = signal_of(t, at(0.3), state=state)
    assert float(state["own"].integral) == pytest.approx(0.7)


def test_balance_reinforces_positives_when_entropy_is_high():
    r = batch(np.array([1, -1] * 4)).replace(entropy=jnp.full((8, 11), 0.9))
    a = per_row(ej.chain(A.raw(), A.entropic_balance(0.5)), r)
    np.testing.assert_allclose(a, [1.4, -0.6] * 4, rtol=1e-6)


def replay(state, reward, replayed, group, stored_advantage=None, **how):
    extra = {} if stored_advantage is None else {"stored_advantage": stored_advantage}
    r = batch(reward, group, replayed=np.asarray(replayed, bool), **extra)
    t = ej.chain(A.group_normalize(std=False), A.replay_baseline(**how))
    signal, new = signal_of(t, r, state=state)
    return signal, new["replay_baseline"]["own"], r


def history(signal_state):
    return {"replay_baseline": {"own": signal_state, "hyper": ()}}


def test_replay_learns_its_history_from_fresh_rows():
    reward = np.array([1, 0, 1, 1, 0, 0, 0, 0.0])
    group = np.array([5, 5, 3, 3, 9, 9, 9, -1])
    _, own, _ = replay(None, reward, [False] * 8, group, capacity=4)
    np.testing.assert_allclose(own.means, [0, 0.5, 1, 0])
    np.testing.assert_allclose(own.stds, [0, 0, 0.5**0.5, 0], rtol=1e-6)
    assert own.count == 3
    _, own, _ = replay(history(own), reward + 2, [False] * 8, group, capacity=4)
    np.testing.assert_allclose(own.means, [2.5, 3, 1, 2])  # the ring goes round: the oldest two are gone
    assert own.count == 6


def test_more_groups_than_places_are_thinned_evenly():
    _, own, _ = replay(None, np.arange(8.0), [False] * 8, np.arange(8), capacity=4)
    np.testing.assert_allclose(own.means, [0, 2, 4, 6])


def test_replay_keeps_only_what_beats_the_median():
    own = History(jnp.asarray([0.2, 0.4, 0.9]), jnp.asarray([0.5, 0.1, 0.3]), jnp.int32(3))
    replayed = np.arange(8) >= 4
    signal, new, r = replay(
        history(own), np.array([1, 0, 1, 0, 1, 0.4, 0.1, 0.5]), replayed, FOUR, std=True, capacity=3
    )
    a = np.asarray(signal.advantage)[:, 2]
    np.testing.assert_allclose(a, [0.5, -0.5, 0.5, -0.5, 0.6 / 0.3, 0, 0, 0.1 / 0.3], rtol=1e-5)
    np.testing.assert_array_equal(
        signal.mask, np.asarray(r.mask) & np.array([1, 1, 1, 1, 1, 0, 0, 1], bool)[:, None]
    )
    assert new.count == 4  # the fresh group alone


def test_replay_may_keep_the_stored_advantage():
    """SPEAR's weight_decay: what the row had when it was sampled, smaller; nothing is computed anew."""
    stored = np.array([9, 9, 9, 9, 0.5, -0.25, 1.0, 0], np.float32)
    signal, _, _ = replay(
        None, np.ones(8), np.arange(8) >= 4, FOUR, weight_decay=0.5, stored_advantage=stored
    )
    a = np.asarray(signal.advantage)[:, 2]
    np.testing.assert_allclose(a[4:], [0.25, 0, 0.5, 0], rtol=1e-6)
    np.testing.assert_array_equal(np.asarray(signal.mask)[4:, 2], [True, False, True, False])
    with pytest.raises(ValueError, match=r"1\.5"):
        A.replay_baseline(weight_decay=1.5)


def test_before_any_history_there_is_nothing_to_imitate():
    signal, own, _ = replay(None, np.ones(8), [True] * 8, FOUR, capacity=3)
    assert not signal.mask.any() and own.count == 0


def test_replay_weight_touches_replayed_rows_only():
    r = batch(replayed=np.arange(8) < 2)
    out = signal_of(A.replay_weight(0.25), r)[0]
    np.testing.assert_allclose(out.weight[:, 0], [0.25, 0.25, 1, 1, 1, 1, 1, 1])
    assert A.replay_weight().hyper["coef"](0) == 0 and A.replay_weight().hyper["coef"](900) == 1
