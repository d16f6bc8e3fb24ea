"""What the definitions say of equal entropies, rows without tokens, mixed precisions and numbers out of the ordinary."""

import jax.numpy as jnp
import numpy as np
import pytest

import entjax as ej
from tests import tiny


def rollout(mask, reward, **arrays):
    """Rows [B, T] of one group; log-probs and entropies 0 unless given."""
    mask = np.asarray(mask, bool)
    zeros = np.zeros(mask.shape, np.float32)
    fields = {"logp": zeros, "old_logp": zeros, "entropy": zeros} | arrays
    extra = {k: jnp.asarray(fields.pop(k)) for k in list(fields) if k not in ("logp", "old_logp", "entropy")}
    fields = {k: jnp.asarray(v) for k, v in fields.items()}
    group = jnp.zeros(len(mask), jnp.int32)
    tokens, reward = jnp.zeros(mask.shape, jnp.int32), jnp.asarray(reward, jnp.float32)
    return ej.Rollout(
        tokens=tokens, mask=jnp.asarray(mask), reward=reward, group=group, extra=extra, **fields
    )


def apply(t, r, stats=None):
    return t.update(ej.Signal.start(r), t.init(None), ej.Context(r, stats or {}))[0]


def test_empg_of_equal_entropies_changes_no_advantage():
    turn = np.repeat([[0, 1, 2, 3]], [3, 11, 23, 27], axis=1)
    r = rollout(np.ones((1, 64)), [1.0], entropy=np.full((1, 64), 0.3, np.float32), turn=turn)
    np.testing.assert_allclose(
        apply(ej.advantages.empg(zeta=0.0), r).advantage, 0.0, atol=1e-6
    )  # A - its mean


def test_erpo_of_equal_entropies_gates_by_a_half():
    r = rollout(np.ones((8, 64)), np.arange(8) % 2, ref_logp=np.full((8, 64), -0.4, np.float32))
    stats = {"entropy": jnp.full((8, 64), 0.7), "logp": jnp.full((8, 64), -0.1)}
    np.testing.assert_array_equal(
        apply(ej.advantages.erpo(), r, stats).advantage, ej.Signal.start(r).advantage
    )


def test_gmpo_has_no_bound_of_its_own():
    r = rollout(np.ones((1, 2)), [-1.0])
    signal = apply(ej.clips.geometric(0.4, 0.4), r)
    value = ej.surrogates.gmpo(jnp.full((1, 2), 24.9), signal)
    np.testing.assert_allclose(value, -np.exp(24.9), rtol=1e-4)


MASK, UP = [[1, 1], [1, 0], [0, 0]], np.log(1.25)


def test_a_row_without_tokens_counts_where_rows_are_averaged():
    r = rollout(
        MASK,
        [1.0, 0.0, 1.0],
        old_logp=np.where([[1, 1], [1, 0], [0, 0]], [[UP], [-UP], [0.0]], 0).astype(np.float32),
    )
    weight = apply(ej.weights.importance("sequence", threshold=10.0, normalize=True), r).weight
    plain = np.array([1.25**2, 0.8])
    np.testing.assert_allclose(weight[:2, 0], plain / (plain.sum() / 3), rtol=1e-6)
    dcpo = ej.advantages.dcpo(target=0.5, cap=0.1)
    r = rollout(MASK, [1.0, 0.0, 1.0], **{name: np.zeros((3, 2), np.float32) for name in dcpo.remembers})
    beta = 0.1 / (2 / 3)
    np.testing.assert_allclose(apply(dcpo, r).metrics["dcpo/alpha"], beta / (1 + beta), rtol=1e-6)


def test_entropic_with_a_negative_target_is_off():
    r = rollout(np.ones((2, 3)), [1.0, 0.0])
    stats = {"entropy": jnp.ones((2, 3)), "logp": jnp.full((2, 3), -0.01)}
    np.testing.assert_array_equal(apply(ej.regularizers.entropic(-1.0), r, stats).weight, 1.0)
    assert (apply(ej.regularizers.entropic(0.1), r, stats).weight[0] > 1).all()


@pytest.mark.parametrize(("takeover", "ids"), [(True, [0, 1, 1]), (False, [0, 1, 0])])
def test_who_keeps_a_row_that_equals_two_representatives(takeover, ids):
    equal = lambda i, j: {i, j} in ({0, 2}, {1, 2})
    found = ej.rewards.answer_clusters(["a", "b", "c"], [0, 0, 0], equal, takeover=takeover)
    assert found.tolist() == ids


def test_epo_without_an_upper_bound_stays_finite():
    r = rollout(np.ones((2, 3)), [1.0, 0.0])
    t = ej.regularizers.epo(lower=0.0, upper=np.inf)
    state, stats = t.init(None), {"entropy": jnp.zeros((2, 3))}
    for step in range(2):
        signal, state = t.update(ej.Signal.start(r), state, ej.Context(r, stats, jnp.int32(step)))
        assert all(np.isfinite(x) for x in signal.metrics.values())


@pytest.mark.parametrize("given", ["ref_logp", "old_logp"])
def test_precisions_may_be_mixed(given):
    """A bfloat16 column beside float32 ones, promotion being strict: everything that subtracts log-probs."""
    r = tiny.rollout()
    wide = {"ref_logp": r.old_logp - 0.1, "prob_sq": jnp.full(r.tokens.shape, 0.3)}
    dcpo, otb = ej.advantages.dcpo(), ej.advantages.otb()
    wide |= dict.fromkeys(dcpo.remembers, r.old_logp)
    stats = {"logp": r.old_logp, "entropy": r.entropy}
    r = r.replace(extra=wide)
    low = lambda x: x.astype(jnp.bfloat16)
    if given == "old_logp":
        mixed = r.replace(old_logp=low(r.old_logp))
    else:
        mixed = r.replace(extra=wide | {"ref_logp": low(wide["ref_logp"]), "prob_sq": low(wide["prob_sq"])})
    for t in (dcpo, otb, ej.advantages.erpo(), ej.advantages.reinforce_pp(kl=0.1),
              ej.rewards.kl_reward(), ej.weights.off_policy_sequences(0.05), ej.weights.importance(),
              ej.regularizers.kl(ej.control.pi(target=0.1, kp=-0.1, ki=-0.01))):  # fmt: skip
        for x, y in zip(
            apply(t, mixed, stats).metrics.values(), apply(t, r, stats).metrics.values(), strict=True
        ):
            np.testing.assert_allclose(x, y, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("n", [7, 11, 13, 37])
def test_clip_b_of_equal_scores_drops_nothing(n):
    flat = np.full((1, n), np.log(0.37), np.float32)
    r = rollout(np.ones((1, n)), [-1.0], logp=flat, old_logp=flat, entropy=np.full((1, n), 0.9, np.float32))
    assert apply(ej.weights.clip_b(), r).mask.all()


@pytest.mark.parametrize("n", [6, 12, 33])
def test_what_is_exactly_at_a_threshold_is_there(n):
    at = lambda x: jnp.full((2, n), x, jnp.float32)
    r = rollout(np.ones((2, n)), [0.0, 0.0])
    assert (
        not apply(ej.regularizers.targeted_entropy(target=0.55), r, {"entropy": at(0.55)})
        .coef["targeted_entropy"]
        .any()
    )
    r = rollout(np.ones((2, n)), [0.0, 0.05], old_logp=-at(0.3), tempered=np.array([False, True]))
    signal = apply(ej.regularizers.aepo(0.3), r)
    assert float(signal.knobs["tempered_temperature"]) == pytest.approx(1.2)  # H <= H_0
    assert not signal.mask[1].any()  # not above .05


def test_lp_reg_without_a_filter_selects_nothing():
    rng = np.random.default_rng(0)
    logits, tokens = (
        jnp.asarray(2 * rng.normal(size=(8, 16, 32)), jnp.float32),
        jnp.asarray(rng.integers(32, size=(8, 16))),
    )
    row = ej.vocab.Row(logits, tokens)
    np.testing.assert_array_equal(ej.features.min_p_logp(0.0)(row), ej.vocab.logp(row))


def test_k3_of_nearly_equal_policies_is_no_rounding():
    d = np.random.default_rng(0).normal(size=20_000) * 1e-4
    found = np.asarray(ej.kl.k3().value(jnp.asarray(d, jnp.float32)), np.float64)
    assert (found >= 0).all() and found.mean() == pytest.approx(np.mean(np.expm1(d) - d), rel=0.01)


@pytest.mark.parametrize("rule", [ej.decoding.top_p(0.9), ej.decoding.typical(0.9), ej.decoding.top_k(2)])
def test_rules_take_logits_of_half_precision(rule):
    logits = jnp.asarray([[1.0, 2.0, 3.0, -4.0]])
    cut = lambda x: np.isfinite(np.asarray(rule.update(x, rule.init(x), None)[0], np.float32))
    np.testing.assert_array_equal(cut(logits.astype(jnp.bfloat16)), cut(logits))


@pytest.mark.parametrize(("average", "share"), [("tokens", [1 / 3] * 3), ("learning", [1.0, 1.0, 1.0])])
def test_an_entropy_bonus_may_have_an_average_of_its_own(average, share):
    """Rows of two and one tokens, one of which learns: the mean over three tokens, or over the one."""
    r = rollout([[1, 1], [1, 0]], [1.0, 0.0])
    signal = ej.Signal.start(r).replace(weight=jnp.asarray([[0.0, 0.0], [1.0, 1.0]]))
    t = ej.chain(ej.regularizers.entropy(0.1, average=average), ej.averages.sequence_mean_token_mean())
    signal = t.update(signal, t.init(None), ej.Context(r))[0]
    counted = np.array(MASK[:2], bool) & ((average == "tokens") | (np.asarray(signal.weight) > 0))
    np.testing.assert_allclose(signal.own_scale["entropy"][counted], share[: counted.sum()], rtol=1e-6)
    assert not np.asarray(signal.own_scale["entropy"])[~counted].any()
