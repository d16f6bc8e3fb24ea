"""The algebra: chains flatten, states have names, conflicts are told when a chain is built."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import entjax as ej
from tests import tiny


def count(name="count"):
    """Adds 1 to a counter and multiplies the weights by it."""

    def update(signal, state, context):
        return signal.replace(weight=signal.weight * (state + 1).astype(signal.weight.dtype)), state + 1

    return ej.Transform(name, lambda payload: jnp.zeros((), jnp.int32), update, writes=frozenset({"weight"}))


def double():
    return ej.stateless("double", lambda s, c: s.replace(weight=s.weight * 2), writes={"weight"})


def run(t, steps=1, state=None, **context):
    rollout = tiny.rollout()
    state = t.init(None) if state is None else state
    signal = None
    for i in range(steps):
        signal, state = t.update(
            ej.Signal.start(rollout), state, ej.Context(rollout, step=jnp.int32(i), **context)
        )
    return signal, state


def test_chains_flatten_and_stateless_members_leave_no_state():
    nested = ej.chain(ej.chain(double(), count()), ej.identity(), ej.chain())
    assert [p.name for p in nested.parts] == ["double", "count"]
    assert list(nested.init(None)) == ["count"]
    signal, state = run(nested, steps=2)
    assert int(state["count"]) == 2 and float(signal.weight[0, 0]) == 4.0


def test_an_old_state_fits_a_chain_with_one_more_stateless_member():
    _, state = run(ej.chain(count()))
    _, state = run(ej.chain(double(), count()), state=state)
    assert int(state["count"]) == 2


def test_names_must_differ():
    with pytest.raises(ValueError, match=r"rename\('other_name'"):
        ej.chain(count(), count())
    with pytest.raises(ValueError, match="rename its members"):
        ej.rename("again", ej.chain(count()))
    both = ej.chain(count(), ej.rename("again", count()))
    assert set(run(both)[1]) == {"count", "again"}


def test_during():
    t = ej.chain(ej.during(1, 3, ej.chain(count(), ej.regularizers.entropy(0.1))))
    weights, coefs = [], []
    state = t.init(None)
    for step in range(4):
        rollout = tiny.rollout()
        signal, state = t.update(ej.Signal.start(rollout), state, ej.Context(rollout, step=jnp.int32(step)))
        weights.append(float(signal.weight[0, 0]))
        coefs.append(float(signal.coef["entropy"][0, 0]))
    assert weights == [1.0, 1.0, 2.0, 1.0]
    np.testing.assert_allclose(coefs, [0, -0.1, -0.1, 0], rtol=1e-6)
    with pytest.raises(ValueError, match="start < stop"):
        ej.during(3, 3, count())


def test_hyperparameters_may_be_schedules_and_controllers():
    t = ej.regularizers.entropy(coef=ej.control.linear(0.0, 1.0, 10))
    values = []
    state = t.init(None)
    for _ in range(3):
        rollout = tiny.rollout()
        signal, state = t.update(ej.Signal.start(rollout), state, ej.Context(rollout))
        values.append(float(signal.metrics["entropy/coef"]))
    np.testing.assert_allclose(values, [0.0, 0.1, 0.2], atol=1e-6)


def test_every_member_draws_from_a_key_of_its_own():
    def draw(name):
        f = lambda s, c: s.note(c, x=jax.random.uniform(c.random_key()))
        return ej.stateless(name, f)

    signal, _ = run(ej.chain(draw("a"), draw("b")), key=jax.random.key(0))
    again, _ = run(ej.chain(draw("b")), key=jax.random.key(0))
    assert signal.metrics["a/x"] != signal.metrics["b/x"] == again.metrics["b/x"]
    with pytest.raises(ValueError, match="pass Context"):
        run(ej.chain(draw("a")))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ej.chain(ej.advantages.group_normalize(), ej.advantages.leave_one_out()), "baseline"),
        (lambda: ej.chain(ej.clips.asymmetric(), ej.clips.unclipped()), "clip"),
        (
            lambda: ej.chain(ej.regularizers.targeted_entropy(), ej.regularizers.siren()),
            "two entropy controllers",
        ),
        (lambda: ej.chain(ej.averages.token_mean(), ej.weights.forking_tokens()), "put 'token_mean' last"),
        (lambda: ej.chain(ej.advantages.entropy_bonus(), ej.advantages.group_normalize()), "put it first"),
        (lambda: ej.chain(ej.advantages.group_normalize(), ej.rewards.overlong()), "put it before"),
        (lambda: ej.Objective(ej.rewards.overlong()), "nothing turns it into an advantage"),
    ],
)
def test_mistakes_of_composition_are_told(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_methods_that_fight_warn():
    with pytest.warns(UserWarning, match="exactly the tokens that STEER damps"):
        ej.chain(ej.weights.steer(), ej.weights.forking_tokens())


def test_an_objective_without_an_average_gets_the_token_mean():
    assert [p.name for p in ej.Objective().parts] == ["token_mean"]
    own = ej.Objective(per_step=ej.averages.sequence_mean_token_mean())
    assert "token_mean" not in [p.name for p in own.parts]
