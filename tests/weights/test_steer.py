"""STEER: range, order and extremes of the weights, and what they do to the entropy of a tabular policy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import entjax as ej
from entjax import entropy_change as change
from tests.weights.situation import apply, batch, valid


def sizes(case, estimator):
    return valid(case, jnp.abs(estimator.score(case[1], ej.Context(case[0], case[2]))))


@pytest.mark.parametrize("estimator", [change.steer_theorem, change.steer_code, change.exact_first_order])
def test_range_and_order(estimator):
    """The largest change gets w_min, the weights fall with |change| and lie in [w_min, 1]."""
    case = batch()
    w, u = valid(case, apply(ej.weights.steer(0.8, estimator=estimator), case).weight), sizes(case, estimator)
    assert w.min() == pytest.approx(0.8) and u[w.argmin()] == u.max()
    assert w.max() <= 1 and (np.diff(w[np.argsort(u)]) <= 1e-6).all()
    np.testing.assert_allclose(w, 0.8 ** (u / u.max()), rtol=1e-5)


def test_linear_spans_the_band():
    case = batch()
    w = valid(case, apply(ej.weights.steer(0.8, 1.2, mode="linear"), case).weight)
    u = sizes(case, change.steer_theorem)
    np.testing.assert_allclose(w, 1.2 - 0.4 * (u - u.min()) / (u.max() - u.min()), rtol=1e-5)


def test_no_advantage_no_change():
    """exp gives 1, linear the midpoint; w_min = 1 gives 1 whatever happens."""
    quiet = batch(advantage=0.0)
    np.testing.assert_array_equal(apply(ej.weights.steer(), quiet).weight, 1)
    midpoint = apply(ej.weights.steer(0.7, 1.1, mode="linear"), quiet).weight
    np.testing.assert_allclose(valid(quiet, midpoint), 0.9, rtol=1e-6)
    np.testing.assert_array_equal(apply(ej.weights.steer(1.0), batch()).weight, 1)


def test_the_released_floor():
    """Below 0.02 the largest change is not the unit any more."""
    case = batch(advantage=1e-3)
    u = sizes(case, change.steer_code)
    assert u.max() < 0.02
    steer = ej.weights.steer(0.8, estimator=change.steer_code, floor=0.02)
    np.testing.assert_allclose(valid(case, apply(steer, case).weight), 0.8 ** (u / 0.02), rtol=1e-5)


def test_asymmetric_strengthens_what_raises_entropy():
    case = batch()
    out = apply(ej.weights.steer(0.8, 1.2, mode="asymmetric", estimator=change.exact_first_order), case)
    w = valid(case, out.weight)
    score = valid(case, change.exact_first_order.score(case[1], ej.Context(case[0], case[2])))
    assert ((w > 1) == (score > 1e-6)).all() and ((w < 1) == (score < -1e-6)).all()
    np.testing.assert_allclose(
        w, np.where(score > 0, 1.2, 0.8) ** (np.abs(score) / np.abs(score).max()), rtol=1e-4
    )


def test_one_outlier_collapses_minmax_but_not_rank():
    """The defect of the published normalisation: one huge advantage, and all other weights are 1."""
    case = batch()
    outlier = case[1].replace(advantage=case[1].advantage.at[0, 2].set(1000.0))
    wide = ej.clips.unclipped()
    spread = lambda n: np.std(
        np.sort(
            valid(
                case,
                apply(ej.chain(wide, ej.weights.steer(normaliser=n)), (case[0], outlier, case[2])).weight,
            )
        )[1:]
    )
    assert spread(None) < 1e-3
    assert spread(change.rank) > 0.05 and spread(change.winsorised(0.9)) > 0.05


def test_weights_multiply_and_report():
    case = batch()
    before = (case[0], case[1].replace(weight=case[1].weight * 3), case[2])
    once, thrice = apply(ej.weights.steer(), case), apply(ej.weights.steer(), before)
    np.testing.assert_allclose(thrice.weight, 3 * once.weight, rtol=1e-6)
    w = valid(case, once.weight)
    np.testing.assert_allclose(once.metrics["steer/mean"], w.mean(), rtol=1e-5)
    np.testing.assert_allclose(once.metrics["steer/std"], w.std(), rtol=1e-3)


def test_entropy_moves_less_than_under_grpo():
    """Tabular softmax, the same sampled tokens and rate: the entropy change of a step shrinks with w_min."""
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.uniform(0.5, 3.0, (600, 1)) * rng.normal(size=(600, 9)), jnp.float32)
    token = jax.random.categorical(jax.random.key(1), logits).astype(jnp.int32)[:, None]
    row = lambda z: ej.vocab.Row(z[:, None], token)
    logp, entropy = ej.vocab.logp(row(logits)), ej.vocab.entropy(row(logits))
    rollout = ej.Rollout(
        tokens=token, mask=jnp.ones((600, 1), bool), logp=logp, entropy=entropy, old_logp=logp,
        reward=jnp.asarray(rng.normal(size=600), jnp.float32), group=jnp.zeros(600, jnp.int32),
    )  # fmt: skip
    stats = {"logp": logp, "entropy": entropy, "prob_sq": ej.vocab.prob_sq(row(logits))}
    stats["prob_sq_logp"] = ej.vocab.prob_sq_logp(row(logits))
    moves = []
    for minimum in (1.0, 0.5, 0.1):
        steer = ej.weights.steer(minimum, estimator=change.exact_first_order)
        signal = apply(steer, (rollout, ej.Signal.start(rollout), stats))

        def surrogate(z, signal=signal):
            x = ej.vocab.logp(row(z)) - logp
            return (signal.weight * ej.surrogates.ppo_clip(x, signal)).sum()

        after = ej.vocab.entropy(row(logits + 0.1 * jax.grad(surrogate)(logits)))
        moves.append(float(jnp.abs(after - entropy).mean()))
    assert moves[0] > moves[1] > moves[2]


@pytest.mark.parametrize(
    "arguments", [{"mode": "cubic"}, {"minimum": 0.0}, {"maximum": 0.9}, {"floor": 0.02, "mode": "linear"}]
)
def test_arguments_are_checked(arguments):
    with pytest.raises(ValueError, match=str(next(iter(arguments.values())))):
        ej.weights.steer(**arguments)


def test_conflicts_are_told():
    with pytest.warns(UserWarning, match="80/20 keeps exactly the tokens"):
        ej.chain(ej.weights.forking_tokens(), ej.weights.steer())


def test_two_entropy_controllers_are_refused():
    """A controller of the weights steers the policy entropy like one of the entropy coefficient; a schedule does not."""
    pi = ej.control.pi(target=0.5, kp=0.1, ki=0.01)
    steer = ej.weights.steer(ej.control.pi(target=0.5, kp=0.1, ki=0.01, low=0.1))
    with pytest.raises(ValueError, match="both own 'entropy'"):
        ej.chain(steer, ej.regularizers.entropy(pi))
    ej.chain(ej.weights.steer(ej.control.linear(1.0, 0.5, 10)), ej.regularizers.entropy(pi))
