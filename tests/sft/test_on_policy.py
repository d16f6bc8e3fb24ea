"""On-policy distillation through the policy's own step: the same gradient as the loss on text, and it reaches the teacher."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import entjax as ej
from entjax import sft
from tests import tiny


def one_step(objective, rollout, teacher):
    model = tiny.model()
    state = ej.init_train_state(model, objective, optax.sgd(1.0), jax.random.key(0))
    state = state.replace(reference=jax.tree.map(jnp.copy, nnx.state(teacher, nnx.Param)))
    rollout = ej.make_score(model, objective)(state, rollout)
    return ej.make_train_step(model, objective, optax.sgd(1.0))(state, rollout)


def text_step(loss, rollout, teacher):
    model = tiny.model()
    step = sft.make_text_step(model, loss, optax.sgd(1.0), teacher=teacher)
    params = jax.tree.map(jnp.copy, nnx.state(model, nnx.Param))
    opt_state = optax.sgd(1.0).init(params)
    params, _, value = step(params, opt_state, rollout.tokens, rollout.mask, nnx.state(teacher, nnx.Param))
    return params, value


def assert_close(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6), a, b)


@pytest.mark.parametrize("reverse", [0.0, 0.25, 1.0])
def test_the_objective_takes_the_step_of_the_loss_on_text(reverse):
    teacher, rollout = tiny.model(3), tiny.rollout()
    state, metrics = one_step(sft.on_policy(reverse), rollout, teacher)
    params, value = text_step(sft.distill(reverse), rollout, teacher)
    np.testing.assert_allclose(metrics["loss"], value, rtol=1e-5)
    assert_close(state.params, params)


def test_the_dense_reward_takes_the_step_of_opd():
    teacher, rollout = tiny.model(3), tiny.rollout()
    state, _ = one_step(sft.on_policy_reward(), rollout, teacher)
    assert_close(state.params, text_step(sft.opd(), rollout, teacher)[0])


def test_rewards_do_not_matter():
    rollout = tiny.rollout()
    for objective in (sft.on_policy(0.5), sft.on_policy_reward()):
        a, _ = one_step(objective, rollout, tiny.model(3))
        b, _ = one_step(
            objective, rollout.replace(reward=rollout.reward * 3 + jnp.arange(8.0)), tiny.model(3)
        )
        jax.tree.map(np.testing.assert_array_equal, a.params, b.params)
