"""A loss of plain logits under ordinary differentiation: the same gradients as entjax's own compiled step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import entjax as ej
from entjax import vocab
from entjax.adapters import decide, loss_from_logits, loss_with_state
from tests import tiny

OBJECTIVES = {
    "dapo": ej.recipes.dapo(),
    "gspo": ej.recipes.gspo(),  # ratios of whole rows
    "steer": ej.recipes.steer(),  # reads features of the current policy
    "entropy_bonus": ej.recipes.entropy_bonus(0.1),  # a term with a gradient of its own
    "kl_cov": ej.recipes.kl_cov(0.2),
    "grpo_kl": ej.recipes.grpo_kl(0.3),  # log-probs of a reference
    "shaped": ej.Objective(ej.chain(ej.advantages.group_normalize(), ej.advantages.entropy_bonus())),
}


def plain_gradients(objective, rollout):
    graphdef, params = nnx.split(tiny.model())

    def loss(params):
        model = nnx.merge(graphdef, params)
        logits = vocab.before(model(rollout.tokens) @ model.head())
        return loss_from_logits(objective, logits, rollout, key=jax.random.key(0))

    return jax.jit(jax.grad(loss, has_aux=True))(params)


def step_gradients(objective, rollout):
    """What plain gradient descent with rate 1 subtracts."""
    model, optimizer = tiny.model(), optax.sgd(1.0)
    before = nnx.split(tiny.model())[1]
    state = ej.init_train_state(model, objective, optimizer, jax.random.key(0))
    score = ej.make_score(model, objective)
    if rollout.old_logp is None:
        scored = score(state, rollout)
        rollout = scored.replace(logp=scored.old_logp, entropy=scored.extra["entropy"])
    state, metrics = ej.make_train_step(model, objective, optimizer)(state, rollout)
    return jax.tree.map(lambda a, b: a - b, before, state.params), metrics


CASES = [(name, False) for name in OBJECTIVES if name != "dapo"] + [("dapo", True), ("steer", True)]


@pytest.mark.parametrize("name, on_policy", CASES)
def test_the_gradients_are_those_of_the_own_step(name, on_policy):
    rollout = tiny.rollout(extra={"ref_logp": tiny.rollout(seed=5).old_logp})
    if on_policy:
        rollout = rollout.replace(old_logp=None, extra={})
    objective = OBJECTIVES[name]
    ours, metrics = plain_gradients(objective, rollout)
    theirs, expected = step_gradients(objective, rollout)
    assert max(float(jnp.abs(x).max()) for x in jax.tree.leaves(theirs)) > 1e-4
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-6), ours, theirs)
    for metric in ("loss", "entropy/mean", "kl/old", "clip/high"):
        np.testing.assert_allclose(metrics[metric], expected[metric], rtol=1e-4, atol=1e-6)


def test_a_chain_alone_decides_on_arrays():
    rollout = tiny.rollout(groups=(4, 4))
    signal = decide(ej.advantages.leave_one_out(), ej.Signal.start(rollout), rollout)
    reward = np.asarray(rollout.reward).reshape(2, 4)
    wanted = (reward - (reward.sum(1, keepdims=True) - reward) / 3).reshape(-1, 1) * np.asarray(rollout.mask)
    np.testing.assert_allclose(signal.advantage, wanted, rtol=1e-5, atol=1e-6)


def test_what_a_loss_function_cannot_do_is_refused():
    rollout = tiny.rollout()
    logits = jnp.zeros((*rollout.tokens.shape, 11))
    with pytest.raises(ValueError, match="remember something from step to step"):
        loss_from_logits(ej.recipes.entropy_pi(), logits, rollout)
    with pytest.raises(ValueError, match="ref_logp"):
        loss_from_logits(ej.recipes.grpo_kl(), logits, rollout)
    full = ej.Objective(per_step=ej.chain(ej.regularizers.full_kl(0.1), ej.averages.token_mean()))
    with pytest.raises(ValueError, match="reference policy"):
        loss_from_logits(full, logits, rollout)


REMEMBERING = {
    "entropy_budget": ej.recipes.entropy_budget(1.5, ki=1.0),  # a controller in the per-step chain
    "scheduled": ej.Objective(  # a schedule in each
        ej.chain(
            ej.advantages.group_normalize(), ej.advantages.entropy_bonus(alpha=ej.control.linear(0.8, 0.0, 2))
        ),
        ej.chain(ej.regularizers.entropy(coef=ej.control.pi(2.0, 0.5, 0.5)), ej.averages.token_mean()),
    ),
}


@pytest.mark.parametrize("name", REMEMBERING)
def test_a_state_in_a_loop_of_ones_own_goes_on_as_in_the_own_step(name):
    objective, optimizer = REMEMBERING[name], optax.sgd(0.5)
    graphdef, params = nnx.split(tiny.model())
    own = ej.init_train_state(tiny.model(), objective, optimizer, jax.random.key(0))
    step = ej.make_train_step(tiny.model(), objective, optimizer)

    @jax.jit
    def plain(params, state, rollout, count):
        def loss(params):
            model = nnx.merge(graphdef, params)
            logits = vocab.before(model(rollout.tokens) @ model.head())
            return loss_with_state(objective, state, logits, rollout, step=count)

        grads, aux = jax.grad(loss, has_aux=True)(params)
        return jax.tree.map(lambda p, g: p - 0.5 * g, params, grads), aux

    state = objective.init()
    for count in range(3):
        rollout = tiny.rollout(seed=count)
        params, (metrics, state) = plain(params, state, rollout, count)
        own, expected = step(own, rollout)
        np.testing.assert_allclose(metrics["loss"], expected["loss"], rtol=1e-4, atol=1e-6)
    near = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-5)
    jax.tree.map(near, params, own.params)
    jax.tree.map(near, state, dict(own.signal_state))
    assert any(float(jnp.abs(x).max()) > 0 for x in jax.tree.leaves(state))


@pytest.mark.parametrize("name", ["grpo_kl", "steer"])
def test_filler_counts_for_nothing_whatever_its_mask_says(name):
    """A row that a trainer gave up, group -1 and a mask of its own: the gradients are those without it."""
    rollout = tiny.rollout(extra={"ref_logp": tiny.rollout(seed=5).old_logp})
    last = len(rollout.group) - 1
    alone = jnp.where(jnp.arange(last + 1) == last, -1, rollout.group)
    given_up = rollout.replace(group=alone, reward=rollout.reward.at[last].set(7.0))
    assert given_up.mask[last].any()
    without = given_up.replace(mask=given_up.mask.at[last].set(False))
    for gradients in (plain_gradients, step_gradients):
        ours, theirs = (gradients(OBJECTIVES[name], x)[0] for x in (given_up, without))
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    shorter = given_up.rows(lambda x: x[:last])
    ours, theirs = (plain_gradients(OBJECTIVES[name], x)[0] for x in (given_up, shorter))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-6), ours, theirs)


def test_log_probs_that_nobody_kept_cost_the_mismatch_alone():
    rollout = tiny.rollout()
    for gradients in (plain_gradients, step_gradients):
        with_them, metrics = gradients(OBJECTIVES["dapo"], rollout)
        without, fewer = gradients(OBJECTIVES["dapo"], rollout.replace(logp=None))
        jax.tree.map(np.testing.assert_array_equal, with_them, without)
        assert set(metrics) - set(fewer) == {"mismatch/mean", "mismatch/max"}
    with pytest.raises(ValueError, match="as the sampler computed them"):
        plain_gradients(ej.recipes.mismatch_corrected(), rollout.replace(logp=None))


@pytest.mark.parametrize(
    "change, said",
    [
        (
            {"reward": jnp.zeros((8, 1))},
            r"rollout.reward has shape \(8, 1\); it needs one entry a row: \(8,\)",
        ),
        ({"group": jnp.zeros(3, int)}, r"rollout.group has shape \(3,\)"),
        ({"reward": [0.0] * 8}, "rollout.reward is a list: give an array"),
        ({"mask": jnp.ones((8, 3), bool)}, r"rollout.mask has shape \(8, 3\); but rollout.tokens has"),
        ({"tokens": jnp.zeros(8, int)}, r"rollout.tokens has shape \(8,\)"),
        ({"entropy": None}, "entropy is None"),
    ],
)
def test_arrays_that_do_not_belong_together_are_named(change, said):
    rollout = tiny.rollout(groups=(4, 4))
    logits = jnp.zeros((*rollout.tokens.shape, 11))
    wrong = rollout.replace(**change)
    with pytest.raises(ValueError, match=said):
        loss_from_logits(ej.recipes.grpo(), logits, wrong)
    with pytest.raises(ValueError, match="logits at index t predict"):
        loss_from_logits(ej.recipes.grpo(), logits[:, 1:], rollout)
