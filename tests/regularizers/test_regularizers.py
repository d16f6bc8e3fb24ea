"""Properties that the pages state for the regularizers, and the branches that no golden number reaches."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import entjax as ej
from entjax import features, vocab
from entjax.loss import token_losses
from tests import tiny

r = ej.regularizers


def context_of(rollout, seed=0, **stats):
    rng = np.random.default_rng(seed)
    shape = rollout.tokens.shape
    logp = jnp.asarray(np.asarray(rollout.old_logp) + 0.1 * rng.normal(size=shape), jnp.float32)
    entropy = jnp.asarray(rng.uniform(0, 2, shape), jnp.float32)
    return ej.Context(rollout, {"logp": logp, "entropy": entropy, **stats})


def signal_of(rollout, seed=1):
    noise = np.random.default_rng(seed).normal(size=rollout.tokens.shape)
    return ej.Signal.start(rollout).replace(
        advantage=jnp.asarray(noise * np.asarray(rollout.mask), jnp.float32)
    )


def gradient_step(t, model, rollout, lr):
    """(features before and after, metrics) of one step of plain gradient descent on the term alone."""
    objective = ej.Objective(per_step=t, per_token=lambda log_ratio, signal: log_ratio * 0)
    state = ej.init_train_state(model, objective, optax.sgd(lr), jax.random.key(0))
    graphdef, _ = nnx.split(model)
    look = lambda params: ej.step.policy_features(
        graphdef, params, None, rollout, {"entropy": vocab.entropy, **t.reads}, 10_000
    )
    before = look(jax.tree.map(jnp.copy, state.params))
    state, metrics = ej.make_train_step(model, objective, optax.sgd(lr))(state, rollout)
    return before, look(state.params), metrics


# The nucleus ----------------------------------------------


def nucleus_entropy(p, top_p, include_crossing):
    """By sorting, in float64."""
    q = np.sort(p)[::-1]
    kept = q[: int((np.cumsum(q) < top_p).sum()) + include_crossing]
    if not kept.size:
        return 0.0
    kept = kept / kept.sum()
    return float(-(kept * np.log(kept)).sum())


@pytest.mark.parametrize("include_crossing", [True, False])
@pytest.mark.parametrize("sharpness", [0.1, 2.0, 8.0])
def test_nucleus_by_bisection_equals_a_sort(include_crossing, sharpness):
    rng = np.random.default_rng(0)
    logits = sharpness * rng.normal(size=(40, 300))
    logits[:, 7] = -np.inf
    row = vocab.Row(vocab.finite_logits(jnp.asarray(logits, jnp.float32)), jnp.zeros(40, jnp.int32))
    p = np.asarray(jax.nn.softmax(row.logits, -1), np.float64)
    for top_p in (0.3, 0.8, 0.95):
        ours = features.top_p_entropy(top_p, include_crossing)(row)
        ref = [nucleus_entropy(x, top_p, include_crossing) for x in p]
        np.testing.assert_allclose(ours, ref, rtol=2e-5, atol=2e-6)


def test_nucleus_of_a_sure_token():
    """One token of mass >= p: alone in the usual nucleus, nothing in the released one; both have entropy 0 and no NaN."""
    row = lambda z: vocab.Row(z, jnp.zeros(1, jnp.int32))
    logits = jnp.asarray([[9.0, 0.0, -1.0, 1.0]])
    for include in (True, False):
        value, grad = jax.value_and_grad(lambda z, i=include: features.top_p_entropy(0.8, i)(row(z)).sum())(
            logits
        )
        assert float(value) == pytest.approx(0.0, abs=1e-6) and np.isfinite(grad).all()
    uniform = row(jnp.zeros((1, 8)))
    assert float(features.top_p_entropy(0.8, True)(uniform)[0]) == pytest.approx(np.log(8), rel=1e-6)


def test_equal_parameters_give_one_feature():
    assert features.top_p_entropy(0.8, True) is features.top_p_entropy(0.8, True)
    assert features.min_p_logp(0.02, "minp") is features.min_p_logp(0.02, "minp")
    a, b = r.siren(0.1), ej.rename("other", r.siren(0.2))
    assert len(ej.transform._union((a, b), "terms")) == 1


@pytest.mark.parametrize(("include", "top_p"), [(True, 0.5), (False, 0.99)])
def test_a_nucleus_of_one_token_has_no_entropy_at_all(include, top_p):
    """SIREN keeps H > quantile: where most tokens are sure, what rounding leaves of 0 would make peaks of them."""
    first = np.linspace(0.51, 0.9, 400)[:, None]
    p = np.concatenate([first, 0.995 - first, np.full((400, 5), 0.001)], axis=1)
    row = vocab.Row(jnp.asarray(np.log(p) + 3, jnp.float32), jnp.zeros(400, jnp.int32))
    for f in (features.top_p_entropy(top_p, include), jax.jit(features.top_p_entropy(top_p, include))):
        np.testing.assert_array_equal(f(row), 0)


# SIREN ----------------------------------------------


def test_siren_pulls_towards_its_anchor_from_both_sides():
    rollout = tiny.rollout()
    for anchor, sign in ((2.0, 1), (0.2, -1)):
        t = r.siren(1.0, anchor=anchor)
        (name,) = t.terms
        before, after, metrics = gradient_step(t, tiny.model(), rollout, 0.05)
        aggregate = lambda H, name=name: siren_aggregate(np.asarray(H[name]), np.asarray(rollout.mask), 0.8)
        assert float(metrics["siren/entropy"]) == pytest.approx(aggregate(before), rel=1e-5)
        assert sign * (aggregate(after) - aggregate(before)) > 0


def siren_aggregate(H, mask, q):
    """Row by row in NumPy."""
    rows = []
    for h, m in zip(H, mask):
        valid = h[m]
        kept = valid[valid > np.quantile(valid, q)] if valid.size else valid
        rows.append(kept.mean() if kept.size else 0.0)
    return float(np.mean(rows))


def test_siren_anchors_itself_at_the_first_update():
    rollout = tiny.rollout()
    t = r.siren(1.0)
    (name,) = t.terms
    first = context_of(rollout, **{name: context_of(rollout).stats["entropy"]})
    out, state = t.update(signal_of(rollout), t.init(None), first)
    assert float(jnp.abs(out.coef[name]).max()) == 0.0, "no pull at the anchor"
    later = context_of(rollout, **{name: 1.5 * first.stats[name]})
    out, again = t.update(signal_of(rollout), state, later)
    H, mask = np.asarray(first.stats[name]), np.asarray(rollout.mask)
    assert float(again["own"].anchor) == pytest.approx(siren_aggregate(H, mask, 0.8), rel=1e-5)
    gap = siren_aggregate(1.5 * H, mask, 0.8) - siren_aggregate(H, mask, 0.8)
    assert float(out.coef[name].max()) == pytest.approx(2 * gap, rel=1e-4)


def test_siren_row_of_one_token_has_no_peak():
    rollout = tiny.rollout()
    one = rollout.replace(mask=jnp.arange(rollout.mask.shape[1])[None] == jnp.full((8, 1), 2))
    t = r.siren(1.0, anchor=0.3)
    (name,) = t.terms
    out, _ = t.update(signal_of(one), t.init(None), context_of(one, **{name: jnp.ones(one.mask.shape)}))
    assert float(out.metrics["siren/entropy"]) == 0.0 and float(jnp.abs(out.own_scale[name]).sum()) == 0.0


# KL-Cov and Lp-Reg ----------------------------------------------


def test_kl_cov_limits():
    rollout = tiny.rollout()
    signal, context = signal_of(rollout), context_of(rollout)
    (name,) = r.kl_cov().terms
    everything, _ = r.kl_cov(1.0, 0.5).update(signal, (), context)
    np.testing.assert_array_equal(np.asarray(everything.coef[name]), 0.5 * np.asarray(rollout.mask))
    one, _ = r.kl_cov(1e-6).update(signal, (), context)
    covariance = (signal.advantage - ej.masked.mean(signal.advantage, rollout.mask)) * (
        context.stats["logp"] - ej.masked.mean(context.stats["logp"], rollout.mask)
    )
    best = np.where(rollout.mask, covariance, -np.inf).argmax()
    assert np.flatnonzero(np.asarray(one.coef[name])).tolist() == [best]


def test_kl_cov_penalises_more_tokens_with_a_larger_ratio():
    rollout = tiny.rollout()
    signal, context = signal_of(rollout), context_of(rollout)
    (name,) = r.kl_cov().terms
    chosen = [np.asarray(r.kl_cov(q).update(signal, (), context)[0].coef[name]) > 0 for q in (0.05, 0.3, 0.8)]
    assert chosen[0].sum() < chosen[1].sum() < chosen[2].sum()
    assert (chosen[0] <= chosen[1]).all() and (chosen[1] <= chosen[2]).all()


def test_kl_cov_is_silent_on_policy():
    rollout = tiny.rollout()
    t = r.kl_cov(1.0)
    (name,) = t.terms
    row = lambda z: vocab.Row(z, rollout.tokens, {"old_logp": vocab.logp(vocab.Row(logits, rollout.tokens))})
    logits = jax.random.normal(jax.random.key(0), (*rollout.tokens.shape, 11))
    assert float(jnp.abs(jax.grad(lambda z: t.terms[name](row(z)).sum())(logits)).max()) == 0.0


def lp_setting(rho, kappa=0.02, **kwargs):
    rollout = tiny.rollout()
    t = r.lp_reg(rho=rho, kappa=kappa, **kwargs)
    (proxy,) = t.remembers
    rng = np.random.default_rng(4)
    ceiling = np.asarray(rollout.old_logp) + rng.uniform(-1, 1, rollout.tokens.shape)
    rollout = rollout.replace(extra={proxy: jnp.asarray(ceiling, jnp.float32)})
    return t, rollout, signal_of(rollout), context_of(rollout), ceiling


def test_lp_reg_selects_negative_unlikely_and_below_the_proxy():
    t, _, signal, context, ceiling = lp_setting(0.5)
    out, _ = t.update(signal, (), context)
    (name,) = t.terms
    selected = np.asarray(out.coef[name]) > 0
    logp, negative = np.asarray(context.stats["logp"]), np.asarray(signal.advantage) < 0
    k = int(0.5 * negative.sum())
    cut = np.sort(logp[negative])[k - 1]
    np.testing.assert_array_equal(selected, negative & (logp <= cut) & (logp < ceiling))
    assert 0 < selected.sum() < k
    np.testing.assert_array_equal(
        np.asarray(out.clip_low), np.where(selected, 0, np.asarray(signal.clip_low))
    )


def test_lp_reg_lifts_what_fell_below_its_proxy_and_nothing_else():
    """On-policy with kappa = 0 the proxy is the policy: nothing is selected. Below the proxy, descent raises log pi."""
    t, _, signal, context, _ = lp_setting(0.9)
    (name,), (proxy,) = t.terms, t.remembers
    context.rollout.extra[proxy] = context.stats["logp"]
    out, _ = t.update(signal, (), context)
    assert int(out.metrics["lp_reg/selected"]) == 0 and not np.asarray(out.coef[name]).any()
    side = {proxy: jnp.full((1,), -0.5), "mask": jnp.ones(1, bool)}
    k3 = lambda z: t.terms[name](vocab.Row(z, jnp.zeros(1, jnp.int32), side)).sum()
    fallen = jnp.asarray([[0.0, 1.0, 1.0]])
    after = fallen - 0.1 * jax.grad(k3)(fallen)
    logp = lambda z: float(jax.nn.log_softmax(z)[0, 0])
    assert logp(fallen) < -0.5 and logp(after) > logp(fallen)


def test_lp_reg_min_selected_is_the_released_quirk():
    for minimum, expected in ((1, 1), (2, 0)):
        t, _, signal, context, _ = lp_setting(1e-6, min_selected=minimum)
        context.rollout.extra[next(iter(t.remembers))] = jnp.full_like(context.stats["logp"], 0.0)
        out, _ = t.update(signal, (), context)
        assert int(out.metrics["lp_reg/selected"]) == expected


def test_lp_reg_ratio_clip_and_the_clamp_of_k3():
    """Ratios above 10 stop the policy gradient (0..10); k3 above 10 has value 10 and no gradient."""
    t, rollout, signal, context, _ = lp_setting(0.5)
    (name,), (proxy,) = t.terms, t.remembers
    bounds = ej.clips.asymmetric(low=1.0, high=9.0).update(signal, (), context)[0]
    positive = bounds.replace(advantage=jnp.ones_like(bounds.advantage))
    loss = lambda z: token_losses(z, positive, {}, ej.surrogates.ppo_clip).sum()
    far, near = jnp.full(rollout.mask.shape, 2.5), jnp.full(rollout.mask.shape, 2.0)  # ratios 12.2 and 7.4
    assert float(jnp.abs(jax.grad(loss)(far)).max()) == 0.0 < float(jnp.abs(jax.grad(loss)(near)).max())
    side = lambda gap: {proxy: jnp.full((1, 1), -0.5), "mask": jnp.ones((1, 1), bool)}
    logits = lambda gap: jnp.asarray([[[-0.5 - gap, jnp.log1p(-jnp.exp(-0.5 - gap))]]])
    k3 = lambda gap: t.terms[name](vocab.Row(logits(gap), jnp.zeros((1, 1), jnp.int32), side(gap)))[0, 0]
    assert float(k3(jnp.float32(1.0))) == pytest.approx(np.e - 2, rel=1e-5)
    assert float(k3(jnp.float32(3.0))) == 10.0 and float(jax.grad(k3)(jnp.float32(3.0))) == 0.0


def test_min_p_limits():
    logits = jax.random.normal(jax.random.key(0), (50, 9)) * 2
    row = vocab.Row(logits, jnp.arange(50) % 9)
    np.testing.assert_allclose(features.min_p_logp(0.0, "minp")(row), vocab.logp(row), rtol=1e-5, atol=1e-6)
    top = features.min_p_logp(1.0, "minp")(row)
    argmax = np.asarray(logits.argmax(-1) == row.token)
    np.testing.assert_allclose(np.asarray(top), np.where(argmax, 0.0, features.FILTERED), atol=1e-6)
    nothing = features.min_p_logp(1.0, "fixed")(row)
    np.testing.assert_allclose(nothing, -np.log(9), rtol=1e-6)
    half = features.min_p_logp(0.5, "minp")(row)
    p = np.asarray(jax.nn.softmax(logits, -1), np.float64)
    kept = np.where(p >= 0.5 * p.max(-1, keepdims=True), p, 0)
    chosen = kept[np.arange(50), np.arange(50) % 9] / kept.sum(-1)
    np.testing.assert_allclose(np.exp(np.asarray(half)), chosen, rtol=1e-4, atol=1e-30)


def test_soft_min_p_lowers_what_it_removes_to_the_smallest_logit():
    logits = np.random.default_rng(3).normal(size=(50, 9)) * 2
    row = vocab.Row(jnp.asarray(logits, jnp.float32), jnp.arange(50) % 9)
    p = np.exp(logits)
    lowered = np.where(p >= 0.2 * p.max(-1, keepdims=True), logits, logits.min(-1, keepdims=True))
    expected = (lowered - np.log(np.exp(lowered).sum(-1, keepdims=True)))[np.arange(50), np.arange(50) % 9]
    np.testing.assert_allclose(features.min_p_logp(0.2, "minp_soft")(row), expected, rtol=1e-5, atol=1e-6)
    forbidden = row.replace(logits=vocab.finite_logits(jnp.where(row.logits < 0, -jnp.inf, row.logits)))
    kept = features.min_p_logp(0.2, "minp")(forbidden)  # nothing is left below: both rules agree
    np.testing.assert_allclose(features.min_p_logp(0.2, "minp_soft")(forbidden), kept, rtol=1e-5, atol=1e-6)


def test_tempered_logp():
    row = vocab.Row(jnp.asarray([[0.0, 1.0, 3.0]]), jnp.asarray([2]))
    z = np.asarray([0.0, 1.0, 3.0]) / 1.2
    assert float(features.tempered_logp(1.2)(row)[0]) == pytest.approx(
        z[2] - np.log(np.exp(z).sum()), rel=1e-6
    )


# Distances to the reference ----------------------------------------------


def test_distances_between_distributions():
    rng = np.random.default_rng(0)
    p, q = rng.dirichlet(np.ones(6), 20), rng.dirichlet(np.ones(6), 20)
    row = vocab.Row(jnp.asarray(np.log(p), jnp.float32), jnp.zeros(20, jnp.int32), {"ref_logits": jnp.log(q)})
    np.testing.assert_allclose(features.reverse_kl(row), (p * np.log(p / q)).sum(-1), rtol=1e-4)
    np.testing.assert_allclose(features.forward_kl(row), (q * np.log(q / p)).sum(-1), rtol=1e-4)
    np.testing.assert_allclose(
        features.hellinger(row), 0.5 * ((np.sqrt(p) - np.sqrt(q)) ** 2).sum(-1), rtol=1e-4
    )


@pytest.mark.parametrize("direction", ["reverse", "forward", "hellinger"])
def test_descent_on_a_divergence_comes_nearer(direction):
    (name,) = r.full_kl(direction=direction).terms
    feature = r.full_kl(direction=direction).terms[name]
    rng = np.random.default_rng(2)
    z, target = (jnp.asarray(rng.normal(size=(1, 6)), jnp.float32) for _ in range(2))
    distance = lambda z: feature(vocab.Row(z, jnp.zeros(1, jnp.int32), {"ref_logits": target})).sum()
    start = float(distance(z))
    for _ in range(300):
        z = z - 2.0 * jax.grad(distance)(z)
    assert start > 0.05 and float(distance(z)) < 0.01 * start
    np.testing.assert_allclose(jax.nn.softmax(z), jax.nn.softmax(target), atol=0.02)


def test_sampled_kl_is_an_estimate_of_the_full_one():
    """E_{a ~ pi} k1 = E k3 = KL(pi || ref)."""
    rng = np.random.default_rng(1)
    p, q = rng.dirichlet(3 * np.ones(6)), rng.dirichlet(3 * np.ones(6))
    logits = jnp.asarray(np.log(p), jnp.float32)[None].repeat(6, 0)
    row = vocab.Row(logits, jnp.arange(6), {"ref_logp": jnp.asarray(np.log(q), jnp.float32)})
    exact = (p * np.log(p / q)).sum()
    for estimator in (ej.kl.k1(), ej.kl.k3()):
        assert float((p * np.asarray(ej.kl.feature(estimator)(row))).sum()) == pytest.approx(exact, rel=1e-4)


def test_kl_controller_holds_a_divergence():
    """A plant in which the coefficient lowers the KL: PI with negative gains settles at the target."""
    controller = ej.control.pi(0.1, kp=-1.0, ki=-1.0, high=10.0)
    kl, state = 0.5, controller.init()
    for _ in range(600):
        coef, state = controller.update(kl, state)
        kl += 0.1 * (0.5 / (1 + float(coef)) - kl)
    assert kl == pytest.approx(0.1, rel=0.02)


# Entropy terms ----------------------------------------------


def test_the_bonus_raises_entropy_in_proportion_to_its_coefficient():
    rollout = tiny.rollout()
    mean = lambda found: float(ej.masked.mean(found["entropy"], rollout.mask))
    gains = []
    for coef in (0.0, 0.5, 1.0):
        before, after, _ = gradient_step(r.entropy(coef), tiny.model(), rollout, 1e-2)
        gains.append(mean(after) - mean(before))
    assert gains[0] == 0.0 < gains[1] and gains[2] == pytest.approx(2 * gains[1], rel=0.05)
    uniform = lambda z: vocab.entropy(vocab.Row(z, jnp.zeros(1, jnp.int32))).sum()
    np.testing.assert_allclose(jax.grad(uniform)(jnp.full((1, 7), 3.0)), 0, atol=1e-7)


def test_siren_with_everything_open_is_a_pull_on_the_mean_entropy():
    """p = 1, q = 0: the nucleus entropy is the entropy, and of a row only its most certain token is no peak; c = 0: nothing."""
    rollout = tiny.rollout()
    t = r.siren(1.0, top_p=1.0, quantile=0.0, anchor=0.3, include_crossing=True)
    (name,) = t.terms
    before, _, metrics = gradient_step(t, tiny.model(), rollout, 0.0)
    np.testing.assert_allclose(before[name], before["entropy"], rtol=1e-4, atol=1e-5)
    mask, H = np.asarray(rollout.mask), np.asarray(before["entropy"], np.float64)
    rows = [np.sort(h[m])[1:].mean() if m.sum() > 1 else 0.0 for h, m in zip(H, mask)]
    assert float(metrics["siren/entropy"]) == pytest.approx(np.mean(rows), rel=1e-4)
    off, _ = r.siren(0.0, anchor=0.3).update(
        signal_of(rollout),
        r.siren(0.0, anchor=0.3).init(None),
        context_of(rollout, **dict.fromkeys(r.siren(0.0).terms, before[name])),
    )
    assert not np.asarray(off.coef[next(iter(r.siren(0.0).terms))]).any()


def test_targeted_entropy_turns_at_its_target():
    rollout = tiny.rollout()
    before, after, _ = gradient_step(r.targeted_entropy(1.0, target=9.0), tiny.model(), rollout, 0.05)
    mean = lambda found: float(ej.masked.mean(found["entropy"], rollout.mask))
    assert mean(after) > mean(before)
    before, after, _ = gradient_step(r.targeted_entropy(1.0, target=0.0), tiny.model(), rollout, 0.05)
    assert mean(after) < mean(before)
    exact = r.targeted_entropy(1.0, target=0.5)
    half = context_of(rollout, entropy=jnp.full(rollout.mask.shape, 0.5))
    out, _ = exact.update(signal_of(rollout), (), half)
    assert float(jnp.abs(out.coef["targeted_entropy"]).max()) == 0.0


def test_tea_of_a_constant_advantage_is_uniform():
    rollout = tiny.rollout()
    signal = signal_of(rollout).replace(advantage=0.7 * rollout.mask.astype(jnp.float32))
    out, _ = r.tea(1.0).update(signal, (), context_of(rollout))
    length = np.asarray(rollout.mask).sum(1, keepdims=True)
    expected = np.where(rollout.mask, np.minimum(10.0 / length, 5.0), 0)
    np.testing.assert_allclose(-np.asarray(out.coef["tea"]), expected, rtol=1e-5)


def test_epo_without_band_is_the_bonus_and_turns_above_it():
    rollout = tiny.rollout()
    t = r.epo(0.1, lower=0.0, upper=1e9)
    H = jnp.full(rollout.mask.shape, 0.8)
    _, state = t.update(signal_of(rollout), t.init(None), context_of(rollout, entropy=H))
    out, _ = t.update(signal_of(rollout), state, context_of(rollout))
    np.testing.assert_allclose(np.asarray(out.coef["epo"]), -0.1 * np.asarray(rollout.mask), rtol=1e-6)
    strict = r.epo(0.1, lower=0.9, upper=1.1, alpha=2.0)
    out, state = strict.update(signal_of(rollout), strict.init(None), context_of(rollout, entropy=H))
    np.testing.assert_allclose(
        np.asarray(out.coef["epo"]), -0.1 * np.asarray(rollout.mask), rtol=1e-6
    )  # no history yet
    mixed = jnp.where(jnp.arange(rollout.mask.shape[1])[None] % 2 == 0, 2.0, 0.1) * jnp.ones((8, 1))
    out, _ = strict.update(signal_of(rollout), state, context_of(rollout, entropy=mixed))
    beta = 2.0  # step 0
    expected = -0.1 * (1 - beta * 2.0 * np.where(np.asarray(mixed) > 1, 1, -1)) * np.asarray(rollout.mask)
    np.testing.assert_allclose(np.asarray(out.coef["epo"]), expected, rtol=1e-5)


def test_epo_keeps_a_history_per_turn():
    rollout = tiny.rollout()
    turn = jnp.minimum(jnp.arange(rollout.mask.shape[1]) // 4, 2)[None] * jnp.ones((8, 1), jnp.int32)
    rollout = rollout.replace(extra={"turn": turn})
    t = r.epo(turns=4)
    context = context_of(rollout)
    out, state = t.update(signal_of(rollout), t.init(None), context)
    H, mask, where = np.asarray(context.stats["entropy"]), np.asarray(rollout.mask), np.asarray(turn)
    expected = [H[mask & (where == k)].mean() for k in range(3)]
    np.testing.assert_allclose(np.asarray(state["own"].total)[:3], expected, rtol=1e-5)
    assert np.asarray(state["own"].count).tolist() == [1, 1, 1, 0]
    rows = []
    for b in range(8):
        parts = [H[b][mask[b] & (where[b] == k)] for k in range(3)]
        rows += [np.mean([p.mean() for p in parts if p.size])] if mask[b].any() else []
    assert float(out.metrics["epo/entropy"]) == pytest.approx(np.mean(rows), rel=1e-5)


# DSDR ----------------------------------------------


def test_dsdr_weights_only_correct_rows():
    rollout = tiny.rollout().replace(reward=jnp.asarray([1, 0, 1, 1, 0, 0, 0, 0], jnp.float32))
    rollout = rollout.replace(extra={"diversity": jnp.asarray([0.1, 0.9, 0.5, 0.2, 1, 1, 1, 1.0])})
    out, _ = r.dsdr_local(1.0, tau=2.0).update(signal_of(rollout), (), ej.Context(rollout))
    w = np.asarray(out.coef["weighted_logp"]).max(1)
    e = np.exp(2.0 * np.asarray([0.1, 0.5, 0.2]))
    np.testing.assert_allclose(w, [e[0] / e.sum(), 0, e[1] / e.sum(), e[2] / e.sum(), 0, 0, 0, 0], rtol=1e-5)


def test_dsdr_raises_the_entropy_of_what_it_weighs():
    rollout = tiny.rollout().replace(reward=jnp.ones(8), extra={"diversity": jnp.zeros(8)})
    row = lambda z: vocab.Row(z, rollout.tokens, {"old_logp": vocab.logp(vocab.Row(logits, rollout.tokens))})
    logits = jnp.zeros((*rollout.tokens.shape, 11)).at[..., 0].set(3.0)
    sampled_zero = rollout.replace(tokens=jnp.zeros_like(rollout.tokens))
    grad = jax.grad(lambda z: features.weighted_logp(row(z).replace(token=sampled_zero.tokens)).sum())(logits)
    assert float(grad[0, 0, 0]) != 0.0


# EntroPIC ----------------------------------------------


def entropic_at(H, advantage, **kwargs):
    rollout = tiny.rollout()
    t = r.entropic(0.5, **kwargs)
    stats = {"logp": jnp.log(jnp.full(rollout.mask.shape, 0.97)), "entropy": jnp.full(rollout.mask.shape, H)}
    signal = signal_of(rollout).replace(advantage=advantage * rollout.mask.astype(jnp.float32))
    out, state = t.update(signal, t.init(None), ej.Context(rollout, stats))
    return out, state, np.asarray(rollout.mask)


def test_entropic_weighs_positives_up_when_entropy_is_high():
    for H, advantage, expected in (
        (0.8, 1.0, 1.3),
        (0.8, -1.0, 0.7),
        (0.2, 1.0, 0.7),
        (0.2, -1.0, 1.3),
        (9.0, -1.0, 0.0),
    ):
        out, _, mask = entropic_at(H, advantage)
        np.testing.assert_allclose(np.asarray(out.weight)[mask], expected, rtol=1e-5)


def test_entropic_without_gains_is_the_base_and_alpha_stays_in_its_range():
    out, _, mask = entropic_at(3.0, 1.0, kp=0.0, ki=0.0)
    np.testing.assert_array_equal(np.asarray(out.weight)[mask], 1.0)
    for H in (0.0, 9.0):
        assert abs(float(entropic_at(H, 1.0, kp=50.0)[0].metrics["entropic/alpha"])) == 1.0


def test_entropic_integral_recovers_in_the_default_form_only():
    leave = {}
    for form in ("weights", "released"):
        t, rollout = r.entropic(0.5, ki=0.1, form=form), tiny.rollout()
        state, alphas = t.init(None), []
        for H in [2.0] * 100 + [0.4] * 30:
            stats = {"logp": jnp.zeros(rollout.mask.shape), "entropy": jnp.full(rollout.mask.shape, H)}
            out, state = t.update(signal_of(rollout), state, ej.Context(rollout, stats))
            alphas.append(float(out.metrics["entropic/alpha"]))
        leave[form] = min(alphas[100:])
    assert leave["weights"] < 0.0 and leave["released"] == 1.0


# SAFE ----------------------------------------------


def safe_run(kl, entropy, reward, calls=60):
    controller = r.safe_controller()
    state = controller.init()
    for _ in range(calls):
        out, state = controller.update((kl, entropy, reward), state)
    return out


def test_safe_acts_above_its_threshold_and_harder_at_low_entropy():
    assert float(safe_run(0.05, 1.0, 0.1).penalty) == 0.0
    high, low = safe_run(2.0, 1.9, 0.1), safe_run(2.0, 0.3, 0.1)
    assert float(low.penalty) / float(high.penalty) == pytest.approx((2.0 / 0.4) / (2.0 / 2.0), rel=1e-4)
    assert float(safe_run(2.0, 99.0, 0.1).factor) == 0.5


def test_safe_phases():
    assert int(safe_run(0.0, 1.0, 0.9, calls=49).phase) == 0
    assert int(safe_run(0.0, 1.0, 0.9, calls=60).phase) == 3, "a steady reward above .7 has converged"
    assert int(safe_run(0.0, 1.0, 0.5, calls=60).phase) == 2


def test_safe_has_a_gradient_and_the_release_has_none():
    rollout = tiny.rollout()
    rollout = rollout.replace(extra={"ref_logp": rollout.old_logp - 8.0})
    for variant, expected in (("differentiable", True), ("released", False)):
        t = r.safe(variant=variant)
        out, _ = t.update(signal_of(rollout), t.init(None), context_of(rollout))
        assert bool(out.coef) is expected and float(out.metrics["safe/penalty"]) > 0
    with pytest.raises(ValueError, match="paper"):
        r.safe(variant="paper")


def test_soft_min_lies_between_min_and_mean():
    v1, v2 = jnp.asarray([0.0, 1.0, 5.0]), jnp.asarray([0.0, 3.0, -2.0])
    np.testing.assert_allclose(r.soft_min(v1, v1), v1, atol=1e-6)
    soft = r.soft_min(v1, v2, 0.3)
    assert bool(jnp.all(soft >= jnp.minimum(v1, v2) - 1e-6)) and bool(jnp.all(soft <= (v1 + v2) / 2 + 1e-6))
    np.testing.assert_allclose(r.soft_min(v1, v2, 1e-3), jnp.minimum(v1, v2), atol=1e-2)
    np.testing.assert_allclose(r.soft_min(v1, v2, 1e4), (v1 + v2) / 2, atol=1e-2)


# AEPO ----------------------------------------------


def aepo_setting(key=0, **kwargs):
    rollout = tiny.rollout().replace(extra={"tempered": jnp.arange(8) >= 5})
    signal = signal_of(rollout)
    advantage = jnp.asarray([0.5, -1, 0.2, 1, -0.3, 0.9, -0.4, 0.6])[:, None] * rollout.mask.astype(
        jnp.float32
    )
    t = r.aepo(0.5, **kwargs)
    return t, rollout, signal.replace(advantage=advantage), ej.Context(rollout, key=jax.random.key(key))


def test_aepo_replaces_as_many_rows_as_it_adds():
    seen = set()
    for key in range(8):
        t, rollout, signal, context = aepo_setting(key, choose="random")
        out, _ = t.update(signal, t.init(None), context)
        rows = np.asarray(out.mask).any(1)
        assert rows[5:].tolist() == [True, False, True] and rows[:5].sum() == 3
        np.testing.assert_array_equal(np.asarray(out.advantage)[5][np.asarray(rollout.mask)[5]], 1.0)
        seen.add(tuple(rows[:5]))
    assert len(seen) > 1, "which rows leave is drawn at random"


def test_aepo_without_samples_is_grpo_on_the_other_rows():
    t, _, signal, context = aepo_setting(samples=0)
    out, _ = t.update(signal, t.init(None), context)
    np.testing.assert_array_equal(np.asarray(out.mask)[:5], np.asarray(signal.mask)[:5])
    np.testing.assert_array_equal(np.asarray(out.advantage)[:5], np.asarray(signal.advantage)[:5])
    assert not np.asarray(out.mask)[5:].any()


def test_aepo_regulates_the_temperature_and_halves_above_the_target():
    for nll, temperature, used in ((0.2, 1.2, 2), (0.5, 1.2, 2), (0.7, 0.8, 1)):
        t, rollout, signal, context = aepo_setting()
        rollout = rollout.replace(old_logp=jnp.full(rollout.mask.shape, -nll))
        context = context.replace(rollout=rollout)
        out, state = t.update(signal, t.init(None), context)
        assert float(out.knobs["tempered_temperature"]) == pytest.approx(temperature)
        assert int(out.metrics["aepo/used"]) == 2, "nothing was measured before the first update"
        out, _ = t.update(signal, state, context)
        assert int(out.metrics["aepo/used"]) == used


# Padding ----------------------------------------------


@pytest.mark.parametrize(
    "make", [r.dsdr_local, lambda: r.entropic(form="released", threshold=0.0), lambda: r.kl_cov(1.0)]
)
def test_nan_on_padding_stays_out_of_the_gradient(make):
    """Ratios and distances of padding are computed before their coefficient 0 is seen."""
    rollout = tiny.rollout()
    dirty = lambda x: jnp.where(rollout.mask, x, jnp.nan)
    rollout = rollout.replace(reward=jnp.ones(8), extra={"diversity": jnp.ones(8)})
    objective = ej.Objective(per_step=make())
    step = ej.make_train_step(tiny.model(), objective, optax.sgd(0.1))
    run = lambda data: step(
        ej.init_train_state(tiny.model(), objective, optax.sgd(0.1), jax.random.key(0)), data
    )[0]
    clean, other = (
        run(rollout),
        run(rollout.replace(old_logp=dirty(rollout.old_logp), logp=dirty(rollout.logp))),
    )
    assert int(other.skipped) == 0
    for a, b in zip(jax.tree.leaves(clean.params), jax.tree.leaves(other.params)):
        np.testing.assert_array_equal(a, b)


# Mistakes ----------------------------------------------


def test_mistakes_are_told():
    for bad in (
        lambda: r.siren(quantile=1.0),
        lambda: r.siren(top_p=0.0),
        lambda: r.kl_cov(ratio=2.0),
        lambda: r.lp_reg(kappa=-1.0),
        lambda: r.lp_reg(estimator="k9"),
        lambda: r.entropic(form="both1"),
        lambda: r.entropic(threshold=1.5),
        lambda: r.epo(lower=2.0, upper=1.0),
        lambda: r.aepo(low=2.0, high=1.0),
        lambda: r.tea(alpha=0.0),
        lambda: r.soft_min(jnp.zeros(1), jnp.zeros(1), 0.0),
        lambda: features.tempered_logp(0.0),
    ):
        with pytest.raises(ValueError, match=r"\d"):
            bad()


def test_lp_reg_goes_after_the_clip_rule():
    clip = ej.clips.asymmetric(low=1.0, high=9.0)
    ej.chain(clip, r.lp_reg())
    with pytest.raises(ValueError, match="after it"):
        ej.chain(r.lp_reg(), clip)


def test_two_entropy_owners_are_refused():
    with pytest.raises(ValueError, match="entropy"):
        ej.chain(r.siren(), r.targeted_entropy())
    with pytest.raises(ValueError, match="entropy"):
        ej.chain(r.entropic(), r.entropy(ej.control.pi(0.5, 0.1, 0.1)))
    with pytest.raises(ValueError, match="kl"):
        ej.chain(r.safe(), r.kl(ej.kl.adaptive()))
