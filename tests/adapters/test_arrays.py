"""A loss of plain logits under ordinary differentiation: the same gradients as entjax's own compiled step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import entjax as ej
from entjax import vocab
from entjax.adapters import decide, loss_from_logits
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
