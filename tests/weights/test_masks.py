"""Masks: 80/20, Clip-Cov, Clip_B, Clip_V, groups without variance, sequences that the policy has left."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import entjax as ej
from tests.weights.situation import apply, batch, valid


@pytest.mark.parametrize("rho", [0.05, 0.2, 0.5, 1.0])
def test_forking_keeps_the_highest_entropies(rho):
    case = batch()
    kept, entropy = (
        valid(case, apply(ej.weights.forking_tokens(rho), case).mask),
        valid(case, case[2]["entropy"]),
    )
    assert kept.sum() == max(1, int(kept.size * rho + 0.9999))
    assert rho == 1 or entropy[kept].min() > entropy[~kept].max()


@pytest.mark.parametrize("n, rho", [(4096, 0.5), (10240, 0.2), (40960, 0.05)])
def test_forking_keeps_the_right_number_of_many_tokens(n, rho):
    """rho n + 0.9999 in float32 is the next whole number when rho n is whole and some thousand."""
    rollout, signal, _ = batch()
    wide = lambda x: jnp.broadcast_to(x[:1, :1], (8, n // 8))
    rollout, signal = (
        jax.tree.map(lambda x: wide(x) if jnp.ndim(x) == 2 else x, y) for y in (rollout, signal)
    )
    signal = signal.replace(mask=jnp.ones((8, n // 8), bool))
    entropy = jnp.arange(n, dtype=jnp.float32).reshape(8, -1)
    kept = apply(ej.weights.forking_tokens(rho), (rollout, signal, {"entropy": entropy})).mask
    assert kept.sum() == round(n * rho)


def test_forking_per_sequence():
    case = batch()
    mask = np.asarray(case[0].mask)
    kept = np.asarray(apply(ej.weights.forking_tokens(0.3, scope="sequence"), case).mask)
    expected = [max(1, int(n * 0.3 + 0.9999)) for n in mask.sum(1)]
    np.testing.assert_array_equal(kept.sum(1), np.minimum(expected, mask.sum(1)))
    quantile = np.asarray(apply(ej.weights.forking_tokens(0.3, scope="sequence", rule="quantile"), case).mask)
    for row in range(len(mask)):
        h = np.asarray(case[2]["entropy"])[row][mask[row]]
        assert quantile[row].sum() == (h >= np.quantile(h, 0.7)).sum()


def test_denominators_differ_by_the_kept_fraction():
    """Loss over the selected = n / k times loss over all; no gradient elsewhere."""
    case = batch()
    x = jnp.asarray(0.05 * np.random.default_rng(1).normal(size=case[0].mask.shape), jnp.float32)
    losses, slopes = {}, {}
    for denominator in ("selected", "all"):
        whole = ej.chain(ej.weights.forking_tokens(denominator=denominator), ej.averages.token_mean())
        signal = apply(whole, case)
        loss = lambda x, s=signal: -(s.scale * s.weight * ej.surrogates.ppo_clip(x, s)).sum()
        losses[denominator], slopes[denominator] = jax.value_and_grad(loss)(x)
        kept = np.asarray(signal.mask if denominator == "selected" else signal.mask & (signal.weight > 0))
        np.testing.assert_array_equal(np.asarray(slopes[denominator])[~kept], 0)
    n, k = float(case[0].mask.sum()), float(kept.sum())
    np.testing.assert_allclose(losses["selected"], losses["all"] * n / k, rtol=1e-5)


def test_clip_cov_draws_among_eligible_tokens():
    case = batch()
    method = lambda **k: ej.weights.clip_cov(**{"fraction": 0.1, "low": 0.0, "high": 5.0, **k})
    a, logp = valid(case, case[1].advantage), valid(case, case[2]["logp"])
    cov = (a - a.mean()) * (logp - logp.mean())
    r = np.exp(logp - valid(case, case[0].old_logp))
    free = ~(-a * np.clip(r, 0.8, 1.2) > -a * r)
    eligible = (cov > 0) & (cov < 5) & free
    k = int(0.1 * a.size)
    draws = []
    for key in range(6):
        dropped = valid(case, apply(method(), case, key).weight) == 0
        assert dropped.sum() == k and not (dropped & ~eligible).any()
        draws.append(tuple(np.flatnonzero(dropped)))
    assert len(set(draws)) > 1 and draws[0] == tuple(
        np.flatnonzero(valid(case, apply(method(), case, 0).weight) == 0)
    )
    highest = np.flatnonzero(valid(case, apply(method(choose="highest"), case).weight) == 0)
    np.testing.assert_array_equal(np.sort(np.argsort(np.where(eligible, -cov, np.inf))[:k]), highest)


def test_clip_cov_without_eligible_tokens_is_the_base_loss():
    case = batch()
    out = apply(ej.weights.clip_cov(1.0, low=1e6, high=1e7), case)
    np.testing.assert_array_equal(out.weight, case[1].weight)
    np.testing.assert_array_equal(out.mask, case[1].mask)
    one = apply(ej.weights.clip_cov(0.0, low=-10.0), case)  # K is never less than one
    assert (valid(case, one.weight) == 0).sum() == 1


def test_clip_cov_needs_a_key():
    rollout, signal, stats = batch()
    method = ej.weights.clip_cov()
    with pytest.raises(ValueError, match="clip_cov"):
        method.update(signal, (), ej.Context(rollout, stats))


def discriminator(case):
    logp, entropy = valid(case, case[0].old_logp), valid(case, case[0].entropy)
    return np.exp(np.minimum(logp, 0)) * (logp + entropy)


@pytest.mark.parametrize("mu", [0.0, 0.7, 1e9])
def test_clip_b(mu):
    case = batch()
    kept, a, s = (
        valid(case, apply(ej.weights.clip_b(mu), case).mask),
        valid(case, case[1].advantage),
        discriminator(case),
    )
    np.testing.assert_array_equal(kept, ~((a < 0) & (s - s.mean() < -mu * s.std())))
    assert kept[a >= 0].all()


def test_clip_b_reads_the_sampler_on_request():
    case = batch()
    case = (case[0].replace(logp=case[0].old_logp - 1.0), *case[1:])
    kept = valid(case, apply(ej.weights.clip_b(0.5, logp="sampler"), case).mask)
    other = (case[0].replace(old_logp=case[0].logp), *case[1:])
    np.testing.assert_array_equal(kept, valid(case, apply(ej.weights.clip_b(0.5), other).mask))
    assert (kept != valid(case, apply(ej.weights.clip_b(0.5), case).mask)).any()


def with_sums(case):
    """The behaviour policy's sums over the vocabulary, as the scoring pass leaves them."""
    return (case[0].replace(extra={k: case[2][k] for k in ("prob_sq", "prob_sq_logp")}), *case[1:])


def test_clip_v_without_its_cap():
    """Raw D, not centred; A = 0 is tested like A < 0, A > 0 is kept."""
    case = with_sums(batch(advantage=np.tile([-1.0, 0.0, 1.0, -2.0], (8, 3))[:, :11]))
    extra = case[0].extra
    n = valid(case, case[0].entropy) * valid(case, extra["prob_sq"]) + valid(case, extra["prob_sq_logp"])
    d, a = n - discriminator(case), valid(case, case[1].advantage)
    far = (a <= 0) & (d > 0.3 * d.std())
    kept = valid(case, apply(ej.weights.clip_v(0.3, max_fraction=1.0), case).mask)
    np.testing.assert_array_equal(kept, ~far)
    assert (far & (a == 0)).any() and (far & (a < 0)).any()
    capped = valid(case, apply(ej.weights.clip_v(0.3, max_fraction=0.06), case).mask)
    k = max(int(0.06 * a.size), 1)
    strongest = np.argsort(np.where(far & (a < 0), -d, np.inf))[:k]
    np.testing.assert_array_equal(np.flatnonzero(~capped & (a < 0)), np.sort(strongest))
    np.testing.assert_array_equal(~capped & (a == 0), far & (a == 0))


def test_clip_v_with_an_infinite_threshold_drops_nothing():
    case = with_sums(batch())
    np.testing.assert_array_equal(apply(ej.weights.clip_v(1e9), case).mask, case[0].mask)


def test_clip_v_without_spread_drops_nothing():
    case = with_sums(batch(advantage=-1.0))
    flat = lambda x: jnp.full_like(x, -0.5)
    rollout = case[0].replace(old_logp=flat(case[0].old_logp), entropy=flat(case[0].entropy) + 1.0)
    rollout = rollout.replace(extra={"prob_sq": flat(rollout.logp) + 2, "prob_sq_logp": flat(rollout.logp)})
    out = apply(ej.weights.clip_v(0.0), (rollout, *case[1:]))
    np.testing.assert_array_equal(out.mask, rollout.mask)


@pytest.mark.parametrize("factory", [ej.weights.clip_b, ej.weights.clip_v, ej.weights.zero_variance])
def test_denominator_all_only_zeroes_weights(factory):
    case = with_sums(batch())
    shrunk, zeroed = apply(factory(), case), apply(factory(denominator="all"), case)
    np.testing.assert_array_equal(zeroed.mask, case[0].mask)
    np.testing.assert_array_equal(valid(case, zeroed.weight) > 0, valid(case, shrunk.mask))


def test_zero_variance():
    """Equal rewards leave; one different reward keeps the group; a group of one stays (DAPO)."""
    rollout, signal, stats = batch()
    rollout = rollout.replace(
        reward=jnp.array([1.0, 1.0, 1.0, 0.0, 0.0, 1.0, 1.0, 1.0]),
        group=jnp.array([5, 5, 5, 2, 2, 2, 9, -1], jnp.int32),
    )
    out = apply(ej.weights.zero_variance(), (rollout, signal.replace(reward=signal.reward * 7), stats))
    kept = np.array([0, 0, 0, 1, 1, 1, 1, 0], bool)
    np.testing.assert_array_equal(out.mask, np.asarray(rollout.mask) & kept[:, None])
    np.testing.assert_allclose(out.metrics["zero_variance/kept"], 4 / 7, rtol=1e-6)


def test_off_policy_sequences():
    """Rows whose mean log-ratio fell by more than the threshold keep only their tokens of A >= 0."""
    rollout, signal, stats = batch(advantage=np.tile([-1.0, 1.0], (8, 6))[:, :11])
    fall = jnp.asarray([0.0, 0.1, -0.4, 0.049, 0.051, 1.0, 0.02, 3.0])[:, None]
    stats = {"logp": rollout.old_logp - fall}
    out = apply(ej.weights.off_policy_sequences(0.05), (rollout, signal, stats))
    gone = np.asarray(fall > 0.05) & np.asarray(signal.advantage < 0) & np.asarray(rollout.mask)
    np.testing.assert_array_equal(np.asarray(out.weight) == 0, gone)
    assert gone.any()


@pytest.mark.parametrize(
    "make,value",
    [
        (lambda: ej.weights.forking_tokens(0.0), "0.0"),
        (lambda: ej.weights.forking_tokens(scope="group"), "group"),
        (lambda: ej.weights.forking_tokens(denominator="some"), "some"),
        (lambda: ej.weights.clip_cov(2.0), "2.0"),
        (lambda: ej.weights.clip_cov(low=5.0, high=1.0), "5.0"),
        (lambda: ej.weights.clip_cov(choose="lowest"), "lowest"),
        (lambda: ej.weights.clip_b(-1.0), "-1.0"),
        (lambda: ej.weights.clip_b(logp="reference"), "reference"),
        (lambda: ej.weights.clip_v(max_fraction=1.5), "1.5"),
        (lambda: ej.weights.zero_variance(denominator="none"), "none"),
    ],
)
def test_arguments_are_checked(make, value):
    with pytest.raises(ValueError, match=value):
        make()


def test_a_mask_after_the_average_is_refused():
    with pytest.raises(ValueError, match="put 'token_mean' last"):
        ej.chain(ej.averages.token_mean(), ej.weights.forking_tokens())
