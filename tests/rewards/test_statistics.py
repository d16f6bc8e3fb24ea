"""Rewards made of statistics and of other answers: properties of the papers, and branches that no golden number covers."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import entjax as ej
from entjax.rewards.ares_bucket import Buckets, difficulty, update_buckets
from entjax.rewards.ares_kl import KLBuckets, start_kl_buckets, update_kl_buckets
from entjax.rewards.ares_reward import entropy_score
from entjax.rewards.ares_window import argmax_name, window_entropy_count, window_percentile
from entjax.rewards.overlong import overlong_penalty
from tests import tiny
from tests.advantages.test_group import batch, per_row, signal_of

R, A = ej.rewards, ej.advantages
FOUR = np.repeat(np.arange(2), 4)


def reward_of(t, rollout, **kwargs):
    return np.asarray(signal_of(t, rollout, **kwargs)[0].reward)


# KL in the reward


def with_reference(**kwargs):
    r = batch(**kwargs)
    return r.replace(
        extra={
            "ref_logp": r.old_logp
            + 0.3 * jnp.asarray(np.random.default_rng(0).normal(size=(8, 11)), jnp.float32)
        }
    )


def test_centred_kl_leaves_the_mean_reward():
    r = with_reference()
    shaped = reward_of(R.kl_reward(0.5, centred=True), r)
    assert shaped.mean() == pytest.approx(float(r.reward.mean()), abs=1e-5)
    np.testing.assert_allclose(
        np.diff(shaped), np.diff(reward_of(R.kl_reward(0.5), r)), atol=1e-5
    )  # a shift by one number


def test_kl_to_itself_costs_nothing():
    r = with_reference()
    same = r.replace(extra={"ref_logp": r.old_logp})
    np.testing.assert_array_equal(reward_of(R.kl_reward(0.5, estimator=ej.kl.k3()), same), same.reward)


def test_kl_k3_by_hand():
    r = with_reference()
    d = np.where(r.mask, np.asarray(r.extra["ref_logp"] - r.old_logp, np.float64), 0)
    expected = np.asarray(r.reward) - 0.5 * (np.exp(d) - d - 1).sum(1)
    np.testing.assert_allclose(reward_of(R.kl_reward(0.5, estimator=ej.kl.k3()), r), expected, rtol=1e-5)


def test_only_a_controller_owns_the_kl():
    assert R.kl_reward(0.1).owns == frozenset()
    assert R.kl_reward(ej.kl.adaptive(0.2, 0.1, 100, 8)).owns == {"kl"}


# Votes and clusters


def with_answers(cluster, group=FOUR, **kwargs):
    return batch(np.zeros(8), group, cluster=np.asarray(cluster, np.int32), **kwargs)


def test_the_majority_earns_its_number_of_votes():
    r = with_answers([2, 1, 1, 0, -1, -1, 3, -1])
    np.testing.assert_array_equal(reward_of(R.majority_vote(), r), [0, 1, 1, 0, 0, 0, 1, 0])


def test_without_a_readable_answer_nobody_earns():
    r = with_answers([-1] * 4 + [0] * 4)
    result = R.vote(r.extra["cluster"], r.group)
    np.testing.assert_array_equal(result.label, [-2] * 4 + [0] * 4)
    np.testing.assert_array_equal(result.ratio, [0] * 4 + [1] * 4)
    np.testing.assert_array_equal(result.reward, [0] * 4 + [1] * 4)


def test_ties_go_to_the_first_or_to_the_smallest():
    cluster, group = jnp.asarray([5, 2, 2, 5]), jnp.zeros(4, jnp.int32)
    assert R.vote(cluster, group).label[0] == 5
    assert R.vote(cluster, group, "smallest").label[0] == 2


def test_filler_rows_neither_vote_nor_earn():
    r = with_answers([1, 1, 0, 0, 0, 0, 0, 0], np.array([0, 0, 0, -1, -1, -1, -1, -1]))
    np.testing.assert_array_equal(reward_of(R.majority_vote(), r), [1, 1, 0, 0, 0, 0, 0, 0])


def test_empo_rewards_are_frequencies():
    r = with_answers([0, 0, 0, 1, 0, 0, 0, 0])
    reward = reward_of(R.empo(), r)
    np.testing.assert_allclose(reward, [0.75, 0.75, 0.75, 0.25, 1, 1, 1, 1])
    a = per_row(ej.chain(R.empo(), A.group_normalize()), r)
    np.testing.assert_array_equal(a[4:], 0)


def test_empo_when_all_answers_differ():
    r = with_answers([0, 1, 2, 3, -1, -1, 4, 4])
    np.testing.assert_allclose(reward_of(R.empo(), r), [0, 0, 0, 0, 0, 0, 0.5, 0.5])
    np.testing.assert_allclose(reward_of(R.empo("verl"), r), [0.25] * 6 + [0.5] * 2)
    np.testing.assert_allclose(reward_of(R.empo("vote"), r), [1, 1, 1, 1, 0, 0, 1, 1])


def test_empo_confidence_threshold():
    """Eight different answers have share 1/8 < .25: nothing. Two equal ones of eight reach .25."""
    one_group = np.zeros(8, int)
    r = with_answers(np.arange(8), one_group)
    np.testing.assert_array_equal(reward_of(R.empo("verl", min_confidence=0.25), r), 0)
    r = with_answers([0, 0, 1, 2, 3, 4, 5, 6], one_group)
    np.testing.assert_allclose(reward_of(R.empo("verl", min_confidence=0.25), r), [0.25] * 2 + [0.125] * 6)


def test_empo_of_a_group_of_one():
    r = with_answers(np.zeros(8), np.arange(8))
    np.testing.assert_array_equal(reward_of(R.empo(), r), 0)
    np.testing.assert_array_equal(reward_of(R.empo("verl"), r), 1)


def test_empo_for_free_form_answers():
    """Missing answers cost, copies of the question earn nothing, nor does a group that agrees on nothing."""
    copied = np.array([0, 1, 0, 0, 0, 0, 0, 0], bool)
    r = with_answers([0, 0, 0, -1, 1, 1, 1, 1], copied=copied)
    np.testing.assert_allclose(reward_of(R.empo("reasoning"), r), [0.75, 0, 0.75, -0.5, 1, 1, 1, 1])
    r = with_answers([*range(7), -1], np.zeros(8, int), copied=copied)
    np.testing.assert_allclose(reward_of(R.empo("reasoning"), r), [0] * 7 + [-0.5])
    with pytest.raises(ValueError, match="truth"):
        R.empo("truth")


def test_answers_are_clustered_by_identity_inside_a_group():
    ids = R.answer_clusters(["7", "x", "7", None, "x", "7", None, "y"], FOUR)
    np.testing.assert_array_equal(ids, [0, 1, 0, -1, 0, 1, -1, 2])


def test_answers_are_clustered_by_a_given_equality():
    values = ["0.5", "1/2", "2", ".5", "3", "3.0", "4", "3"]
    number = {"0.5": 0.5, "1/2": 0.5, ".5": 0.5, "2": 2, "3": 3, "3.0": 3, "4": 4}
    ids = R.answer_clusters(values, FOUR, lambda i, j: number[values[i]] == number[values[j]])
    np.testing.assert_array_equal(ids, [0, 0, 1, 0, 0, 0, 1, 0])


# Entropy and length


def test_pear_prefers_calm_thinking():
    """Reward falls with the entropy of thinking, rises with that of the answer, and wrong rows keep theirs."""
    r = batch(np.array([1, 1, 1, 0, 1, 1, 1, 0]), think_end=np.full(8, 4, np.int32))
    length = np.full((8, 1), 11)
    r = r.replace(mask=jnp.asarray((np.arange(11) >= 2) & (np.arange(11) < length)))
    phase = lambda think, answer: jnp.where(jnp.arange(11) < 4, think, answer)[None, :].repeat(8, 0)
    reward = lambda think, answer, **how: reward_of(R.pear(**how), r.replace(entropy=phase(think, answer)))
    np.testing.assert_allclose(reward(0.9, 0.5), [0.6, 0.6, 0.6, 0, 0.6, 0.6, 0.6, 0], rtol=1e-5)
    np.testing.assert_allclose(reward(0.3, 0.5)[0], 1)  # the penalty is never negative
    np.testing.assert_allclose(reward(2.5, 0.5)[0], -1, rtol=1e-5)
    np.testing.assert_allclose(reward(2.5, 0.5, floor=0.0)[0], 0)
    for nowhere in (10**6, -1, 1):  # beyond the end, nowhere, in the prompt: no tag
        missing = r.replace(extra={"think_end": jnp.full(8, nowhere, jnp.int32)}, entropy=phase(0.9, 0.9))
        np.testing.assert_allclose(reward_of(R.pear(), missing)[0], 0.1, rtol=1e-5)


def test_pear_ranks_right_answers_by_their_calm():
    """In a group where all are right GRPO learns nothing; with PEAR the calmest reasoning has the largest advantage."""
    r = batch(np.ones(8), np.zeros(8, int), think_end=np.full(8, 10**6, np.int32))
    level = jnp.asarray([0.1, 0.7, 0.3, 0.9, 0.5, 0.2, 0.8, 0.6])[:, None]
    r = r.replace(entropy=jnp.broadcast_to(level, (8, 11)))
    assert np.abs(per_row(A.group_normalize(), r)).max() == 0
    a = per_row(ej.chain(R.pear(), A.group_normalize()), r)
    np.testing.assert_array_equal(np.argsort(-a), np.argsort(np.asarray(level)[:, 0]))


def test_empo_lowers_the_semantic_entropy_of_a_policy_that_is_wrong():
    """Five answers, the most likely one wrong, no labels: agreement is rewarded, so entropy falls and the error stays."""
    start = jnp.asarray([0.6, 0.0, 0.3, 0.1, 0.2])
    chain = ej.chain(R.empo("verl"), A.group_normalize(std=False))
    rollout = tiny.rollout(batch=16, groups=(16,))
    rollout = rollout.replace(
        group=jnp.zeros(16, jnp.int32), mask=jnp.arange(11)[None] == jnp.full((16, 1), 2)
    )

    @jax.jit
    def step(logits, key):
        answer = jax.random.categorical(key, logits, shape=(16,)).astype(jnp.int32)
        seen = rollout.replace(extra={"cluster": answer})
        signal, _ = chain.update(ej.Signal.start(seen), {}, ej.Context(seen))
        toward = jax.nn.one_hot(answer, 5) - jax.nn.softmax(logits)
        return logits + 0.1 * (signal.advantage[:, 2, None] * toward).sum(0)

    logits = start
    for key in jax.random.split(jax.random.key(0), 60):
        logits = step(logits, key)
    entropy = lambda z: float(-(jax.nn.softmax(z) * jax.nn.log_softmax(z)).sum())
    assert entropy(logits) < 0.2 < 1.5 < entropy(start)
    assert int(logits.argmax()) == 0


def test_em_rl_ignores_the_verifier():
    r = tiny.rollout()
    token, sequence = (reward_of(R.em_rl(level), r) for level in ("token", "sequence"))
    on = lambda x: np.where(r.mask, np.asarray(x, np.float64), 0).sum(1)
    np.testing.assert_allclose(token, -on(r.entropy), rtol=1e-5)
    np.testing.assert_allclose(sequence, on(r.old_logp), rtol=1e-5)


@pytest.mark.parametrize(
    ("length", "floor", "expected"),
    [(80, True, 0.0), (90, True, -0.25), (100, True, -0.5), (120, True, -0.5), (120, False, -1.0)],
)
def test_overlong_answers_pay_in_the_buffer(length, floor, expected):
    penalty = overlong_penalty(jnp.asarray([float(length)]), 100, 20, 0.5, floor)
    assert float(penalty[0]) == pytest.approx(expected, abs=1e-6)


def test_tool_bonus_fades():
    r = batch(np.zeros(8), tool_calls=np.array([0, 1, 2, 3, 9, 10, 11, 50], np.int32))
    t = R.tool_use()
    at = lambda step: reward_of(t, r, state=jax.tree.map(lambda count: count + step, t.init(None)))
    full = [0, 0.1, 0.2, 0.3, 0.9, 1, 1, 1]
    np.testing.assert_allclose(at(0), full, rtol=1e-6)
    np.testing.assert_allclose(at(100), np.array(full) / 2, atol=1e-6)
    np.testing.assert_allclose(at(400), 0, atol=1e-6)


# DSDR


def test_diversity_by_hand():
    embeddings = jnp.asarray([[2.0, 0], [0, 1], [-1, 0], [1, 1]])
    formulas = jnp.asarray([[1, 1, 0], [0, 1, 0], [0, 0, 0], [1, 0, 1]], bool)
    d = R.diversity(embeddings, formulas, jnp.asarray([0, 0, 0, 1]))
    expected = [(0.5 * (0.5 + 1) + 0.5) / 2, (0.5 + 0) / 2, (0.5 * (1 + 0.5) + 0) / 2, (0 + 1) / 2]
    np.testing.assert_allclose(d, expected, atol=1e-6)


def test_dsdr_wakes_a_group_in_which_all_are_right():
    r = batch(
        np.array([1, 1, 1, 1, 0, 1, 0, 0]),
        FOUR,
        diversity=np.array([0.1, 0.2, 0.3, 2, 5, 5, 5, 5], np.float32),
    )
    shaped = reward_of(R.dsdr(0.1), r)
    np.testing.assert_allclose(shaped, [1.01, 1.02, 1.03, 1.1, 0, 1.1, 0, 0], rtol=1e-6)
    assert np.abs(per_row(A.group_normalize(), r)[:4]).max() == 0
    assert np.abs(per_row(ej.chain(R.dsdr(0.1), A.group_normalize()), r)[:4]).max() > 1


# ARES


def score(right, n_high, level, target=4, alpha=0.5):
    array = lambda x, dtype: jnp.full(1, x, dtype)
    return float(entropy_score(
        array(right, bool), array(n_high, jnp.float32), array(level, jnp.int32),
        array(target, jnp.float32), array(alpha, jnp.float32),
    )[0])  # fmt: skip


def test_ares_without_strength_is_accuracy():
    for right, n, level in itertools.product((True, False), (0, 4, 50), (0, 1, 2)):
        assert score(right, n, level, alpha=0.0) == 0


def test_ares_easy_answers_are_free_inside_the_margin():
    assert score(True, 5, 0) == 0 and score(True, 0, 0) == 0  # fewer never cost
    assert score(True, 6, 0) == pytest.approx(-0.5 * (1 / 4) / 3)
    assert score(True, 1000, 0) == -0.5
    assert score(True, 0, 1) < 0 < score(True, 4, 2)  # medium: both sides cost; hard: exploring pays


def test_ares_cap_on_hard_prompts():
    """The cap is 1.2 alpha: reached from above with many triggers, and as a loss where the target is far away."""
    assert score(True, 1000, 2, alpha=2.0) == pytest.approx(2.4)
    # D = -100, m = 35, kappa = 4: .5 hub(65) / 39 = .5 * 63 / 39 < 1, no cap yet; D = -1000 saturates at .5 * (x - 2) / (m + 4)
    assert score(True, 0, 2, target=100, alpha=1.0) == pytest.approx(-1.2 * 0.5 * 63 / 39)
    assert score(True, -400, 2, target=100, alpha=1.0) == pytest.approx(-1.2)


def test_ares_wrong_answers_always_get_something():
    for level, factor in ((0, 0.3), (1, 0.4), (2, 0.6)):
        assert score(False, 0, level, alpha=1.0) == pytest.approx(factor)


def test_difficulty_at_its_limits():
    group = jnp.asarray([0, 0, 0, 1, 1, 1, 2, 2, 2])
    accuracy = jnp.asarray([1, 1, 0, 1, 0, 0, 0, 0, 0.0])
    np.testing.assert_array_equal(difficulty(accuracy, group), [0, 0, 0, 1, 1, 1, 2, 2, 2])


def test_bucket_controller_stays_in_its_range():
    state = Buckets(jnp.zeros(3), jnp.asarray([1.99, 0.5, 0.01]))
    n_high = jnp.asarray([3, 3.8, 3.8, 0.45])  # means 3.4 and (hard) 0.45: remainders .4 and .45
    group = jnp.asarray([0, 0, 0, 1])
    new = update_buckets(state, jnp.asarray([1.0, 1, 1, 0]), n_high, group, lr=1.0)
    np.testing.assert_array_equal(new.target, [4, 0, 0])
    np.testing.assert_allclose(new.alpha, [1.99 + 10.6 / 3 - 4, 0.5, 0], atol=1e-5)


def test_window_count_and_percentile_by_hand():
    entropy = jnp.asarray([[9.0, 1, 3, 2, 0, 9]])
    mask = jnp.asarray([[False, True, True, True, True, False]])
    trigger = jnp.ones_like(mask)
    # windows of two: after 1 -> 2.5, after 3 -> 1; after 2 and 0 incomplete
    n = window_entropy_count(entropy, trigger, mask, 2.0, window=2)
    assert (n.n_high[0], n.n_low[0], n.soft_cost[0]) == (1, 1, 0.5)
    values = [2.5, 1, 1.75, 1.75]
    assert window_percentile(entropy, mask, 50.0, 2)[0] == pytest.approx(np.percentile(values, 50))
    assert window_percentile(entropy, mask, 50.0, 9)[0] == 1  # no complete window: the first token's entropy


def test_ares_threshold_is_one_batch_late():
    """In the first batch every complete window counts; the threshold then follows the batches at 1%."""
    r = tiny.rollout()
    t = R.ares_reward((0, 1), window=1, percentile=50.0)
    r = r.replace(extra={argmax_name((0, 1)): jnp.ones((8, 11))})
    signal, state = signal_of(t, r)
    length = np.asarray(r.mask.sum(1))
    assert float(signal.metrics["ares_reward/n_high"]) == pytest.approx((length - 1).mean())
    first = float(state["own"].threshold)
    assert first > 0
    _, state = signal_of(t, r.replace(entropy=r.entropy + 1), state=state)
    assert float(state["own"].threshold) == pytest.approx(first + 0.01, rel=1e-5)


def test_kl_buckets_stay_in_their_bounds_and_leave_them():
    law = R.Law(interval=1, smooth=0.0, lr=5.0)
    rows, bucket = jnp.ones(2, bool), jnp.asarray([0, 1])
    call = lambda state, *values: update_kl_buckets(state, jnp.asarray(values), bucket, rows, law)
    state = start_kl_buckets()
    for _ in range(30):
        state = call(state, 1.0, 0.0)
    beta = np.exp(np.asarray(state.log_beta))
    np.testing.assert_allclose(beta, [100, 1e-4, 1], rtol=1e-4)
    beta = np.exp(np.asarray(call(state, 0.0, 1.0).log_beta))
    np.testing.assert_allclose(beta, [100 / np.e, 1e-4 * np.e, 1], rtol=1e-4)


def test_kl_buckets_wait_for_their_interval_and_ignore_small_errors():
    law = R.Law(interval=3, smooth=0.5)
    rows, bucket = jnp.ones(1, bool), jnp.zeros(1, jnp.int32)
    state = start_kl_buckets()
    for call in range(1, 7):
        before = state.log_beta
        state = update_kl_buckets(state, jnp.asarray([0.02]), bucket, rows, law)
        assert (state.log_beta[0] != before[0]) == (call % 3 == 0)
    quiet = KLBuckets(*(jnp.zeros(3),) * 4, jnp.int32(2))
    state = update_kl_buckets(quiet, jnp.asarray([0.0101]), bucket, rows, law)
    np.testing.assert_array_equal(state.log_beta, 0)


def test_ares_kl_weighs_rows_by_their_bucket():
    r = batch(np.array([1, 1, 1, 1, 0, 0, 0, 0]), FOUR)
    r = r.replace(extra={"ref_logp": r.old_logp})
    t = R.ares_kl(0.01)
    state = t.init(None)
    log_beta = jnp.log(jnp.asarray([2.0, 1, 5]))
    state = {**state, "own": state["own"]._replace(log_beta=log_beta)}
    signal, _ = signal_of(t, r, state=state)
    np.testing.assert_allclose(signal.coef[ej.kl.feature_name()][:, 2], [0.02] * 4 + [0.05] * 4, rtol=1e-5)


# Composition


def test_two_rewards_that_replace_each_other_are_refused():
    with pytest.raises(ValueError, match="overwritten"):
        ej.chain(R.majority_vote(), R.empo())


def test_a_reward_after_the_baseline_is_refused():
    with pytest.raises(ValueError, match="put it before"):
        ej.chain(A.group_normalize(), R.overlong())


def test_double_counting_is_told():
    with pytest.warns(UserWarning, match="counts twice"):
        ej.chain(R.empo(), A.group_normalize(std=False), A.seed())
