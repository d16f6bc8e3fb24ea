"""KL estimators: values, gradients, clamps and expectations, and the adaptive coefficient."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import entjax as ej
from entjax import kl

GRADIENTS = {  # d estimate / d log pi, with d = log pi_ref - log pi
    "k1": (kl.k1(), lambda d: np.ones_like(d)),
    "abs": (kl.absolute(), lambda d: -np.sign(d)),
    "k2": (kl.k2(), lambda d: -d),
    "k3": (kl.k3(), lambda d: 1 - np.exp(d)),
    "k3+": (kl.straight_through(kl.k3()), lambda d: -d),
    "k1+": (kl.straight_through(kl.k1()), lambda d: -d),
}


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients_in_closed_form(name):
    estimator, expected = GRADIENTS[name]
    d = jnp.array([-2.0, -0.3, 0.0, 0.4, 1.5])
    slope = jax.grad(lambda logp: estimator.value(-logp).sum())(-d)
    np.testing.assert_allclose(slope, expected(np.asarray(d)), rtol=1e-5, atol=1e-6)
    assert estimator.name == name


@pytest.mark.parametrize("make", [kl.k1, kl.k3])
def test_straight_through_keeps_the_value(make):
    d = jnp.linspace(-2.0, 2.0, 9)
    np.testing.assert_allclose(kl.straight_through(make()).value(d), make().value(d), atol=1e-6)


def test_clamps_of_k3():
    """verl: d within +-20, then the value within +-10, where the gradient is 0; TRL clamps neither."""
    d = jnp.array([5.0, 2.0, -15.0, -30.0, 30.0])
    slope = lambda e: jax.grad(lambda d: e.value(d).sum())(d)
    np.testing.assert_allclose(kl.k3().value(d), [10.0, np.exp(2) - 3, 10.0, 10.0, 10.0], rtol=1e-6)
    np.testing.assert_allclose(slope(kl.k3()), [0.0, np.exp(2) - 1, 0.0, 0.0, 0.0], rtol=1e-6)
    bare = kl.k3(log_clip=math.inf, value_clip=math.inf)
    np.testing.assert_allclose(bare.value(d), np.exp(d) - d - 1, rtol=1e-5)
    np.testing.assert_allclose(slope(bare), np.exp(d) - 1, rtol=1e-5)
    only_log = kl.k3(value_clip=math.inf)
    np.testing.assert_allclose(only_log.value(d)[3:], [19.0, np.exp(20.0) - 21.0], rtol=1e-5)


def row(seed=0, mask=None):
    """All tokens of a vocabulary of 7 at one position under two policies."""
    rng = np.random.default_rng(seed)
    logits, other, old = rng.normal(size=(3, 7)).astype(np.float32)
    log_softmax = lambda z: jax.nn.log_softmax(jnp.asarray(z))
    side = {"ref_logp": log_softmax(other), "old_logp": log_softmax(old)}
    side |= {} if mask is None else {"mask": mask}
    tiled = jnp.broadcast_to(jnp.asarray(logits), (7, 7))
    return ej.vocab.Row(tiled, jnp.arange(7), side), log_softmax(logits), side


@pytest.mark.parametrize("estimator", [kl.k1(), kl.k3()])
def test_unbiased_estimators_average_to_the_kl(estimator):
    r, logp, side = row()
    p = jnp.exp(logp)
    exact = (p * (logp - side["ref_logp"])).sum()
    np.testing.assert_allclose((p * kl.feature(estimator)(r)).sum(), exact, rtol=1e-5)
    # off-policy tokens, weighted by the ratio: bias-corrected
    corrected = kl.feature(estimator, corrected=True)(r)
    np.testing.assert_allclose((jnp.exp(side["old_logp"]) * corrected).sum(), exact, rtol=1e-5)


@pytest.mark.parametrize("corrected", [False, True])
def test_which_estimator_has_the_gradient_of_the_kl(corrected):
    """k2 on-policy and the corrected k3 off-policy have the exact gradient in expectation; plain k3 off-policy has not."""
    r, logp, side = row(1)
    sampled = jnp.exp(side["old_logp"]) if corrected else jnp.exp(logp)
    feature = kl.feature(kl.k3() if corrected else kl.k2(), corrected=corrected)

    def estimate(logits):
        tiled = jnp.broadcast_to(logits, (7, 7))
        return (sampled * feature(r.replace(logits=tiled))).sum()

    def exact(logits):
        log_p = jax.nn.log_softmax(logits)
        return (jnp.exp(log_p) * (log_p - side["ref_logp"])).sum()

    logits = r.logits[0]
    np.testing.assert_allclose(jax.grad(estimate)(logits), jax.grad(exact)(logits), atol=2e-6)


def test_garbage_on_padding_stays_out():
    mask = jnp.arange(7) < 4
    r, _, side = row(mask=mask)
    wild = jnp.where(mask, side["ref_logp"], jnp.nan)
    r = r.replace(side={**r.side, "ref_logp": wild, "old_logp": jnp.where(mask, side["old_logp"], jnp.inf)})
    feature = kl.feature(corrected=True)
    value = lambda logits: jnp.where(mask, feature(r.replace(logits=logits)), 0).sum()
    assert jnp.isfinite(jax.grad(value)(r.logits)).all()


def test_equal_arguments_give_one_feature():
    assert kl.feature() is kl.feature(kl.k3(20.0, 10.0)) is kl.feature(kl.k3(log_clip=20))
    assert kl.feature(kl.straight_through(kl.k1())) is kl.feature(kl.straight_through(kl.k1()))
    names = [
        kl.feature_name(e, against, c)
        for e in (None, kl.k1(), kl.k3(5.0))
        for against in ("ref_logp", "old_logp")
        for c in (0, 1)
    ]
    assert len(set(names)) == len(names)


def test_a_missing_reference_is_named():
    r, _, _ = row()
    with pytest.raises(ValueError, match="other_logp"):
        kl.feature(against="other_logp")(r)


def test_adaptive_coefficient():
    """At the target nothing changes; the error counts for at most 20% a horizon of sequences."""
    controller = kl.adaptive(0.1, target=0.05, horizon=1000, n=100)
    for measured, factor in ((0.05, 1.0), (10.0, 1.02), (0.0, 0.98), (0.055, 1.01)):
        value, state = controller.update(jnp.float32(measured), controller.init())
        assert value == pytest.approx(0.1 * factor, rel=1e-5)
        assert int(state.count) == 1 and state.value == value


@pytest.mark.parametrize(
    "make",
    [
        lambda: kl.k3(log_clip=0.0),
        lambda: kl.adaptive(target=-1.0),
        lambda: kl.adaptive(horizon=10.0, n=100.0),
    ],
)
def test_arguments_are_checked(make):
    with pytest.raises(ValueError, match="got"):
        make()
