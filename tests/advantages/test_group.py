"""Group advantages against brute force, identities and the cases that no golden number covers."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import entjax as ej
from entjax.advantages.gae import temporal_differences
from entjax.advantages.returns import reward_to_go
from tests import tiny

A = ej.advantages
GROUP = np.array([0, 0, 0, 1, 1, 1, 1, 2])  # sizes 3, 4 and 1


def batch(reward=None, group=GROUP, seed=0, **extra):
    r = tiny.rollout(seed, extra={name: jnp.asarray(x) for name, x in extra.items()})
    if reward is None:
        reward = np.random.default_rng(seed).normal(size=8)
    return r.replace(reward=jnp.asarray(reward, jnp.float32), group=jnp.asarray(group, jnp.int32))


def signal_of(t, rollout, state=None, signal=None):
    context = ej.Context(rollout, {"entropy": rollout.entropy}, 0, jax.random.key(0), t.name)
    signal = ej.Signal.start(rollout) if signal is None else signal
    return t.update(signal, t.init(None) if state is None else state, context)


def per_row(t, rollout, **kwargs):
    """The advantage of each row, and a check that it is the same at every token and 0 elsewhere."""
    signal, _ = signal_of(t, rollout, **kwargs)
    a, mask = np.asarray(signal.advantage), np.asarray(rollout.mask)
    row = np.array([x[m][0] for x, m in zip(a, mask)])
    np.testing.assert_array_equal(a, row[:, None] * mask)
    return row


@pytest.mark.parametrize("t", [A.group_normalize(), A.group_normalize(std=False), A.leave_one_out()])
def test_advantages_of_a_group_sum_to_zero(t):
    a = per_row(t, batch())
    np.testing.assert_allclose([a[:3].sum(), a[3:7].sum()], 0, atol=2e-6)


def test_grpo_ignores_the_unit_of_the_reward():
    r = np.random.default_rng(1).normal(size=8)
    a, b = (per_row(A.group_normalize(singleton="zero"), batch(x)) for x in (r, 3 * r + 7))
    np.testing.assert_allclose(a, b, atol=2e-5)


@pytest.mark.parametrize(
    "t",
    [
        A.group_normalize(),
        A.leave_one_out(),
        A.quantile(),
        A.pass_at_k(),
        A.quantile(interpolation="linear"),
        A.opo(),
    ],
)
def test_equal_rewards_give_exactly_nothing(t):
    """0.1 is no binary fraction: a mean that is off by its last bit must not be divided by a tiny std."""
    a = per_row(t, batch(np.full(8, 0.1)))
    np.testing.assert_array_equal(a[:7], 0)


@pytest.mark.parametrize("t", [A.leave_one_out(normalize=True), A.reinforce_pp_baseline(), A.reinforce_pp()])
def test_whitening_finds_nothing_in_equal_rewards(t):
    """Nor may the rounding of a mean pass through a division by the spread that it made."""
    a = per_row(t, batch(np.full(8, 0.6), np.array([0, 0, 0, 0, 0, 0, 1, 1])))
    np.testing.assert_array_equal(a, 0)


def test_rloo_is_the_mean_of_the_others():
    r = batch()
    reward = np.asarray(r.reward, np.float64)
    expected = [x - np.mean([y for j, y in enumerate(reward) if GROUP[j] == GROUP[i] and j != i])
                for i, x in enumerate(reward[:7])]  # fmt: skip
    np.testing.assert_allclose(per_row(A.leave_one_out(), r)[:7], expected, rtol=1e-5)
    n = np.array([3] * 3 + [4] * 4)
    dr = per_row(A.group_normalize(std=False), r)[:7]
    np.testing.assert_allclose(per_row(A.leave_one_out(), r)[:7], n / (n - 1) * dr, rtol=1e-5)


KEEP, ZERO = 0.7, 0.0


@pytest.mark.parametrize(
    ("t", "expected"),
    [
        (A.group_normalize(eps=0.4), KEEP / 1.4),
        (A.group_normalize(singleton="zero"), ZERO),
        (A.group_normalize(std=False), KEEP),
        (A.leave_one_out(), KEEP),
        (A.leave_one_out(singleton="zero"), ZERO),
        (A.opo(), KEEP),
        (A.gpg(), KEEP),
        (A.pass_at_k(), ZERO),
        (A.quantile(eps=0.4), KEEP / 1.4),
        (A.canon(mu=0.3, alpha=0.9, beta=0.05), KEEP + 0.3 * 0.05),
        (A.canon("length", mu=0.3, alpha=0.9, beta=0.05), 0.3 * (0.9 * KEEP + 0.05) + 0.7 * KEEP),
        (A.hardness(), ZERO),
        (A.raw(), KEEP),
    ],
    ids=lambda x: x.name if isinstance(x, ej.Transform) else "",
)
def test_a_group_of_one(t, expected):
    assert per_row(t, batch(np.full(8, KEEP)))[7] == pytest.approx(expected, abs=1e-6)


def test_batch_scope_divides_by_one_std():
    r = batch(group=np.array([0, 0, 0, 1, 1, 1, 1, -1]))
    reward = np.asarray(r.reward, np.float64)[:7]
    a = per_row(A.group_normalize(scope="batch", eps=0.0), r)[:7]
    dr = per_row(A.group_normalize(std=False), r)[:7]
    np.testing.assert_allclose(a, dr / reward.std(ddof=1), rtol=1e-5)


def returns_by_hand(reward, mask, gamma, cross):
    """The definition, token by token; `cross`: a return crosses a hole."""
    out = np.zeros_like(reward)
    for b in range(len(reward)):
        later = 0.0
        for t in reversed(range(reward.shape[1])):
            if mask[b, t]:
                later = out[b, t] = reward[b, t] + gamma * later
            elif not cross:
                later = 0.0
    return out


@pytest.mark.parametrize("holes", ["stop", "skip"])
def test_returns_and_observation_holes(holes):
    rng = np.random.default_rng(0)
    mask = rng.random((6, 9)) < 0.7
    reward = rng.normal(size=(6, 9)) * mask
    ours = reward_to_go(jnp.asarray(reward, jnp.float32), jnp.asarray(mask), 0.9, holes)
    np.testing.assert_allclose(
        np.asarray(ours) * mask, returns_by_hand(reward, mask, 0.9, holes == "skip"), atol=1e-5
    )


def test_gae_by_its_definition():
    rng = np.random.default_rng(0)
    mask = rng.random((5, 9)) < 0.7
    reward, value = rng.normal(size=(2, 5, 9))
    gamma, lam = 0.95, 0.8
    ours = temporal_differences(
        *(jnp.asarray(x, jnp.float32) for x in (reward, value)), jnp.asarray(mask), gamma, lam
    )
    for b in range(5):
        r, v = reward[b][mask[b]], np.append(value[b][mask[b]], 0.0)
        delta = r + gamma * v[1:] - v[:-1]
        expected = [sum((gamma * lam) ** k * d for k, d in enumerate(delta[t:])) for t in range(len(r))]
        np.testing.assert_allclose(np.asarray(ours)[b][mask[b]], expected, atol=1e-5)


def test_gae_with_lambda_one_is_the_return_minus_the_value():
    value = np.random.default_rng(0).random((8, 11))
    r = batch(value=value.astype(np.float32))
    a = signal_of(A.gae(gamma=1.0, lam=1.0), r)[0].advantage
    plain = np.where(r.mask, np.asarray(r.reward)[:, None] - value, 0)
    on = plain[np.asarray(r.mask)]
    expected = np.where(r.mask, (plain - on.mean()) / np.sqrt(on.var(ddof=1) + 1e-8), 0)
    np.testing.assert_allclose(a, expected, atol=1e-5)


def test_otb_with_importance_weights():
    rng = np.random.default_rng(0)
    r = batch(prob_sq=rng.random((8, 11)).astype(np.float32))
    a = np.asarray(signal_of(A.otb(importance=True), r)[0].advantage)
    mask, old = np.asarray(r.mask), np.asarray(r.old_logp, np.float64)
    energy = (1 - 2 * np.exp(old) + np.asarray(r.extra["prob_sq"])) * np.exp(2 * (old - np.asarray(r.logp)))
    weight = np.cumsum(energy * mask, axis=1) * mask
    for t in range(2, 11):
        for g in (0, 1):
            rows = [i for i in np.flatnonzero(g == GROUP) if mask[i, t]]
            if rows:
                reward = np.asarray(r.reward)[rows]
                baseline = (reward * weight[rows, t]).sum() / (weight[rows, t].sum() + 1e-8)
                np.testing.assert_allclose(a[rows, t], reward - baseline, atol=2e-5)
    np.testing.assert_allclose(a[7], np.asarray(r.reward)[7] * mask[7], rtol=1e-6)


def test_opo_weighs_by_length():
    r = batch()
    length, reward = np.asarray(r.mask.sum(1), np.float64), np.asarray(r.reward, np.float64)
    for g in (0, 1):
        rows = g == GROUP
        expected = reward[rows] - np.average(reward[rows], weights=length[rows])
        np.testing.assert_allclose(per_row(A.opo(), r)[rows], expected, atol=1e-5)


def test_gpg_counts_informative_rewards():
    reward = np.array([0, 1, 0, 0, 0, 1, 0, 0.0])
    centred = reward - np.array([1 / 3] * 3 + [1 / 4] * 4 + [0])
    np.testing.assert_allclose(per_row(A.gpg(f_norm=2.0), batch(reward)), 8 / 2 * centred / 2, atol=1e-6)


def test_a_tie_for_the_best_earns_nothing():
    a = per_row(A.pass_at_k(std=False), batch(np.array([1, 1, 0, 0.2, 0.9, 0.5, 0.1, 3])))
    np.testing.assert_allclose(a, [0, 0, 0, 0, 0.4, 0, 0, 0], atol=1e-6)


@pytest.mark.parametrize("level", [0.25, 0.4, 0.6])
def test_quantile_of_binary_rewards_leaves_one_sign(level):
    group = np.repeat(np.arange(2), 4)
    for successes in range(5):
        reward = np.tile(np.arange(4) < successes, 2)
        a = per_row(A.quantile(level), batch(reward, group))[:4]
        hard = successes / 4 <= 1 - level
        assert (a[~reward[:4]] == 0).all() if hard else (a[reward[:4]] == 0).all()
        assert (a >= 0).all() if hard else (a <= 0).all()


def test_quantile_one_half_is_the_lower_median():
    r = batch()
    baseline = np.asarray(r.reward) - per_row(A.quantile(0.5, std=False), r)
    reward = np.asarray(r.reward)
    np.testing.assert_allclose([baseline[0], baseline[3]], [np.sort(reward[:3])[1], np.sort(reward[3:7])[1]])


def test_whole_quantile_positions_are_not_rounded_up():
    """0.4 * 5 is 2.0000000298 in float32: still the second smallest."""
    reward = np.array([5, 4, 3, 2, 1, 0, 0, 0])
    r = batch(reward, np.array([0] * 5 + [1] * 3))
    np.testing.assert_allclose(per_row(A.quantile(0.4, std=False), r)[:5], reward[:5] - 2)


def test_quantile_refuses_a_level_that_is_none():
    with pytest.raises(ValueError, match=r"1\.5"):
        A.quantile(1.5)


def test_canon_of_equal_rewards_is_nothing():
    np.testing.assert_allclose(per_row(A.canon(), batch(np.full(8, 0.25)))[:7], 0, atol=1e-7)


def test_canon_half_way_is_dr_grpo_in_even_groups():
    r = batch(group=np.repeat(np.arange(2), 4))
    for metric in ("entropy", "length", "row"):
        np.testing.assert_allclose(
            per_row(A.canon(metric, mu=0.5), r), per_row(A.group_normalize(std=False), r), atol=1e-6
        )


def test_canon_favours_the_better_half():
    """High-entropy answers are right: mu = 1 compares across, so all of the high half is positive."""
    r = batch(np.array([1, 1, 0, 0, 0, 0, 0, 0]), np.repeat(np.arange(2), 4))
    level = jnp.asarray([2.0, 1.5, 0.3, 0.1, 0, 0, 0, 0])[:, None]
    a = per_row(A.canon(mu=1.0), r.replace(entropy=jnp.broadcast_to(level, (8, 11))))
    np.testing.assert_allclose(a[:4], [1, 1, -1, -1], atol=1e-6)


def test_canon_over_all_random_splits_is_rloo():
    """Across halves that are drawn at random a row meets every other row as often: the mean of the others is its baseline."""
    reward, group = np.array([1.0, 0.25, 0.0, 0.5]), np.zeros(4, int)
    total = np.zeros(4)
    orders = list(itertools.permutations(range(4)))
    r = tiny.rollout(batch=4, groups=(4,))
    for order in orders:
        turned = r.replace(
            reward=jnp.asarray(reward[list(order)], jnp.float32), group=jnp.asarray(group, jnp.int32)
        )
        total[list(order)] += per_row(A.canon("row", mu=1.0), turned)
    np.testing.assert_allclose(total / len(orders), reward - (reward.sum() - reward) / 3, atol=1e-6)


def test_hardness_weighs_hard_prompts_more():
    r = batch(np.array([1, 0, 0, 1, 1, 1, 0, 1]))
    a = per_row(A.hardness(), r)
    dr = 2 * per_row(A.group_normalize(std=False), r)
    weight = a[:7] / dr[:7]
    mean = 2 * np.array([1 / 3] * 3 + [3 / 4] * 4) - 1
    np.testing.assert_allclose(weight, 1.256 - 0.256 * mean, rtol=1e-5)
    assert ((weight >= 1) & (weight <= 1.512)).all()
    np.testing.assert_allclose([a[:3].sum(), a[3:7].sum()], 0, atol=1e-6)
