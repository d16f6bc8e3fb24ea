"""The algebra: chains flatten, states have names, conflicts are told when a chain is built."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import entjax as ej
from tests import tiny

A, W = ej.advantages, ej.weights


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


def test_outside_its_steps_a_rule_leaves_the_knobs_of_a_run_alone():
    knob = ej.stateless(
        "knob", lambda s, c: s.replace(knobs={"temperature": jnp.float32(0.7)}), knobs={"temperature"}
    )
    objective = ej.Objective(ej.during(1, 2, knob))
    model, optimizer = tiny.model(), optax.sgd(0.1)
    state = ej.init_train_state(model, objective, optimizer, jax.random.key(0))
    step, seen = ej.make_train_step(model, objective, optimizer), []
    for _ in range(3):
        state, _ = step(state, tiny.rollout())
        seen.append(float(state.knobs["temperature"]))
    np.testing.assert_allclose(seen, [np.nan, 0.7, 0.7], rtol=1e-6)  # not set yet, set, as it was


def test_a_schedule_looks_at_nothing():
    """So it costs no pass over the policy; a controller's measurement does."""
    line = ej.control.linear(1e-3, 0.0, 10)
    for factory in (ej.regularizers.entropy, ej.regularizers.kl, ej.regularizers.full_kl):
        assert not factory(line).reads and not factory(1e-3).reads
        assert factory(ej.control.pi(target=0.5, kp=0.1, ki=0.01)).reads


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
        (
            lambda: ej.chain(ej.rewards.overlong(8, buffer=4), ej.rewards.majority_vote()),
            "replaces the reward and would undo",
        ),
        (
            lambda: ej.chain(ej.weights.clip_b(), ej.advantages.group_normalize()),
            "has already looked at: put it before",
        ),
        (lambda: ej.Objective(ej.regularizers.kl_cov(), ej.advantages.gpg()), "has already looked at"),
        *[
            (lambda t=t: ej.chain(t, ej.clips.asymmetric()), f"put '{t.name}' after it")
            for t in (
                ej.weights.clip_cov(),
                ej.weights.steer(),
                ej.weights.entropy_budget(0.5),
                ej.advantages.hapo_redistribution(),
                ej.regularizers.lp_reg(),
            )
        ],
    ],
)
def test_mistakes_of_composition_are_told(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ej.chain(W.steer(), W.forking_tokens()), "exactly the tokens that STEER damps"),
        (lambda: ej.chain(W.steer(), ej.rename("forks", W.forking_tokens())), "tokens that STEER damps"),
        (lambda: ej.chain(A.group_normalize(), A.entropy_bonus(), A.ear()), "Put 'ear' before it"),
        (lambda: ej.chain(A.group_normalize(), A.empg(), W.zero_variance()), "Put 'zero_variance' before it"),
        (lambda: ej.chain(A.group_normalize(), A.entrocraft(), A.hicra()), "has to see the final advantage"),
        (lambda: ej.chain(A.group_normalize(), W.clip_b(), A.entropy_bonus()), "has already looked at"),
        (lambda: ej.Objective(A.pass_at_k(), ej.regularizers.lp_reg()), "no negative advantage"),
        (lambda: ej.chain(ej.rewards.dsdr(), A.group_normalize(std=False)), "negligible"),
        (lambda: ej.Objective(ej.chain(ej.rewards.pear(), A.raw()), W.zero_variance()), "this drops them"),
    ],
)
def test_methods_that_fight_warn(build, message):
    with pytest.warns(UserWarning, match=message):
        build()


def test_the_right_order_is_silent():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ej.Objective(
            ej.chain(ej.rewards.majority_vote(), ej.rewards.overlong(8, buffer=4), A.group_normalize(), A.ear(),
                     A.entropy_bonus(), A.entrocraft(), W.clip_b()),
            ej.chain(ej.clips.asymmetric(), W.clip_cov(), ej.regularizers.entropy(1e-3)),
        )  # fmt: skip


@pytest.mark.parametrize(
    "make", [lambda x: ej.regularizers.entropy(x), lambda x: ej.weights.steer(minimum=x)]
)
def test_a_hyperparameter_that_is_not_a_number_is_told(make):
    with pytest.raises(ValueError, match="nan"):
        make(float("nan"))


def test_an_objective_with_other_arguments_keeps_the_rest():
    whole = ej.recipes.hapo()
    other = whole.replace(per_step=ej.chain(whole.per_step, ej.regularizers.entropy(0.01)))
    assert [p.name for p in other.parts] == [*(p.name for p in whole.parts), "entropy"]
    assert (other.rules, other.per_token) == (whole.rules, whole.per_token)
    with pytest.raises(TypeError, match="per_toke"):
        whole.replace(per_toke=ej.surrogates.ppo_clip)


def test_an_objective_without_an_average_gets_the_token_mean():
    assert [p.name for p in ej.Objective().parts] == ["token_mean"]
    own = ej.Objective(per_step=ej.averages.sequence_mean_token_mean())
    assert "token_mean" not in [p.name for p in own.parts]
