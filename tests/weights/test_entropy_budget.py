"""The entropy budget: the constraint is met, the weights are the closest ones, and the policy's entropy obeys."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import entjax as ej
from entjax.weights.entropy_budget import spend
from tests import tiny

rng = np.random.default_rng(0)
CHANGE = jnp.asarray(rng.normal(size=(6, 9)) - 0.3, jnp.float32)
MASK = jnp.asarray(rng.random((6, 9)) < 0.8)


@pytest.mark.parametrize("budget", [-0.6, -0.1, 0.0, 0.25, 0.7])
def test_the_constraint_is_met_and_the_weights_are_the_closest(budget):
    w, asked, given = spend(CHANGE, MASK, jnp.float32(budget), 4.0)
    np.testing.assert_allclose(given, asked, atol=2e-5)
    c, w, m = np.asarray(CHANGE, np.float64), np.asarray(w, np.float64), np.asarray(MASK)
    assert w[m].min() >= 0 and w[m].max() <= 4.0
    # any feasible direction (keeps sum w c and the bounds) moves away from 1
    inside = m & (w > 1e-3) & (w < 4.0 - 1e-3)
    ci = c[inside]
    for seed in range(20):
        step = np.random.default_rng(seed).normal(size=ci.shape)
        step -= ci * (step @ ci) / (ci @ ci)
        moved = w[inside] + 1e-4 * step
        assert ((moved - 1) ** 2).sum() >= ((w[inside] - 1) ** 2).sum() - 1e-7


def test_the_natural_budget_changes_nothing():
    c, m = np.asarray(CHANGE), np.asarray(MASK)
    natural = c[m].sum() / np.abs(c[m]).sum()
    w, _, _ = spend(CHANGE, MASK, jnp.float32(natural), 2.0)
    np.testing.assert_allclose(np.asarray(w)[m], 1.0, atol=1e-4)


def test_what_cannot_be_met_goes_as_far_as_it_can():
    w, asked, given = spend(-jnp.abs(CHANGE), MASK, jnp.float32(0.5), 2.0)
    assert given < asked and np.abs(np.asarray(w)[np.asarray(MASK)]).max() < 0.2  # only weight 0 comes near


def test_a_softmax_keeps_its_entropy_under_a_budget_of_zero():
    """One exact policy-gradient step on tabular softmax rows: the entropy change is a hundredth of the unweighted step's."""
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(400, 12)) * 1.5
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    token = np.array([rng.choice(12, p=row) for row in p])
    advantage = rng.normal(size=400) + (p[np.arange(400), token] > 0.3)
    entropy = lambda p: -(p * np.log(p)).sum(1)
    rollout = ej.Rollout(
        tokens=jnp.asarray(token[None], jnp.int32), mask=jnp.ones((1, 400), bool), logp=jnp.zeros((1, 400)),
        entropy=jnp.zeros((1, 400)), old_logp=jnp.asarray(np.log(p[np.arange(400), token])[None], jnp.float32),
        reward=jnp.zeros(1), group=jnp.zeros(1, jnp.int32),
    )  # fmt: skip
    stats = {"logp": rollout.old_logp, "entropy": entropy(p)[None], "prob_sq": (p**2).sum(1)[None],
             "prob_sq_logp": (p**2 * np.log(p)).sum(1)[None]}  # fmt: skip
    stats = {k: jnp.asarray(v, jnp.float32) for k, v in stats.items()}
    signal = ej.Signal.start(rollout).replace(advantage=jnp.asarray(advantage[None], jnp.float32))
    t = ej.weights.entropy_budget(budget=0.0)
    out, _ = t.update(signal, t.init(None), ej.Context(rollout, stats))

    def after(w):
        moved = logits + 1e-3 * (w * advantage)[:, None] * (np.eye(12)[token] - p)
        q = np.exp(moved - moved.max(1, keepdims=True))
        return entropy(q / q.sum(1, keepdims=True)).mean()

    free, held = (
        after(np.ones(400)) - entropy(p).mean(),
        after(np.asarray(out.weight, np.float64)[0]) - entropy(p).mean(),
    )
    assert abs(held) < 0.02 * abs(free)


def test_arguments():
    with pytest.raises(ValueError, match="either target"):
        ej.weights.entropy_budget()
    with pytest.raises(ValueError, match="maximum"):
        ej.weights.entropy_budget(0.5, maximum=0.5)


@pytest.mark.parametrize("anchor", [0.0, 0.5])
def test_the_anchor_of_the_recipe_draws_back_to_the_initial_policy(anchor):
    """Equal rewards teach nothing, so what moves a policy that has drifted is its anchor alone."""
    model, optimizer, rollout = tiny.model(), optax.sgd(1.0), tiny.rollout()
    rollout = rollout.replace(reward=jnp.ones_like(rollout.reward))
    objective = ej.recipes.entropy_budget(0.5, anchor=anchor)
    assert ("ref_logp" in objective.needs) == bool(anchor)
    state = ej.init_train_state(model, objective, optimizer, jax.random.key(0))
    noise = jax.random.key(1)
    state = state.replace(
        params=jax.tree.map(lambda x: x + 0.3 * jax.random.normal(noise, x.shape), state.params)
    )
    score, step = ej.make_score(model, objective), ej.make_train_step(model, objective, optimizer)
    start = ej.make_score(model, ej.recipes.entropy_budget(0.5))
    reference = start(ej.init_train_state(model, objective, optimizer, jax.random.key(0)), rollout).old_logp

    def gap(state):
        d = np.asarray(reference - start(state, rollout).old_logp, np.float64)[np.asarray(rollout.mask)]
        return np.mean(np.expm1(d) - d)

    before = gap(state)
    state, _ = step(state, score(state, rollout))
    assert gap(state) < 0.9 * before if anchor else abs(gap(state) - before) < 1e-6
