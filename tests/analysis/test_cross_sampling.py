"""Cross-sampling at its ends, and the states of the estimators' study."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import entjax as ej
from entjax.analysis.cross_sampling import make_cross_sample
from entjax.analysis.prediction import states
from tests import tiny


def test_the_other_policy_decides_everywhere_nowhere_and_where_they_differ():
    model = tiny.model(seed=1)
    _, a = nnx.split(model)
    _, b = nnx.split(tiny.model(seed=2))
    tokens = jnp.full((64, 8), 3, jnp.int32)
    start = jnp.asarray([2, 3] * 32, jnp.int32)
    run = lambda eps, first, second: map(
        np.asarray,
        make_cross_sample(model, eos_ids=(0,), pad_id=10, eps=eps)(
            first, second, tokens, start, jax.random.key(0)
        ),
    )
    out, mask, crossed = run(0.7, a, b)
    alone, _, none = run(0.1, a, a)
    assert not crossed.any() and not none.any()  # JS <= ln 2 < 0.7, and equal policies never differ
    np.testing.assert_array_equal(out, alone)
    whole, _, every = run(-1.0, a, b)
    other, _, _ = run(0.1, b, b)
    np.testing.assert_array_equal(whole, other)
    assert (every == run_mask(whole, start)).all()
    tried = [tuple(run(eps, a, b)) for eps in (0.3, 0.45, 0.55)]
    mixed = [i for i, (_, mask, crossed) in enumerate(tried) if 0 < crossed.sum() < mask.sum()]
    part, mask, crossed = tried[mixed[0]]
    assert not (crossed & ~mask).any() and (part != whole).any() and (part != alone).any()
    for row, m, s in zip(part, mask, np.asarray(start)):
        assert (row[:s] == 3).all()
        ended = np.flatnonzero((row == 0) & m)
        last = ended[0] if len(ended) else 7
        np.testing.assert_array_equal(np.flatnonzero(m), np.arange(s, last + 1))
        assert (row[last + 1 :] == 10).all()


def run_mask(tokens, start):
    """Sampled places: from the prompt's end to the first 0."""
    ended = np.cumsum((tokens == 0) & (np.arange(8)[None] >= np.asarray(start)[:, None]), axis=1)
    before = np.concatenate([np.zeros((len(tokens), 1)), ended[:, :-1]], axis=1)
    return (np.arange(8)[None] >= np.asarray(start)[:, None]) & (before == 0)


def test_states_are_equal_where_all_tokens_before_are():
    tokens = np.array([[1, 2, 3, 4], [1, 2, 5, 4], [1, 2, 3, 9]], np.int32)
    found = states(tokens)
    assert found[0, 2] == found[1, 2] == found[2, 2] and found[0, 3] == found[2, 3] != found[1, 3]
    assert len(np.unique(found)) == 5  # "", 1, 12, 123, 125


def test_predictions_agree_with_a_step_of_a_table():
    """In a softmax table without sharing, the exact estimator's sum over a state is the state's change."""
    from entjax.analysis.prediction import compare, predictions

    key = np.random.default_rng(0)
    logits = key.normal(size=(40, 6))
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    token = np.array([[key.choice(6, p=row)] for row in p])
    tokens = np.concatenate([np.arange(40)[:, None] + 6, token], 1)
    H = -(p * np.log(p)).sum(1)
    wide = lambda x: jnp.asarray(np.stack([np.zeros(40), x], 1), jnp.float32)
    logp = wide(np.log(p[np.arange(40), token[:, 0]]))
    stats = {
        "logp": logp,
        "entropy": wide(H),
        "prob_sq": wide((p**2).sum(1)),
        "prob_sq_logp": wide((p**2 * np.log(p)).sum(1)),
    }
    reward = jnp.asarray(key.normal(size=40), jnp.float32)
    mask = jnp.asarray(np.array([[False, True]] * 40))
    rollout = ej.Rollout(tokens=jnp.asarray(tokens, jnp.int32), mask=mask, logp=logp, entropy=stats["entropy"], old_logp=logp,
                         reward=reward, group=jnp.zeros(40, jnp.int32))  # fmt: skip
    objective = ej.Objective(ej.advantages.raw(), ej.averages.token_mean(), ej.surrogates.reinforce)
    state = {"per_rollout": objective.per_rollout.init(None)}
    _, scores = predictions(objective, rollout, stats, state)
    moved = logits + 1e-4 * np.asarray(reward)[:, None] * (np.eye(6)[token[:, 0]] - p)
    q = np.exp(moved) / np.exp(moved).sum(1, keepdims=True)
    found = compare(scores, wide(H), wide(H) + wide(1e4 * (-(q * np.log(q)).sum(1) - H)), rollout)
    np.testing.assert_allclose(found.state["exact_first_order"], 1.0, atol=1e-3)
    np.testing.assert_allclose(found.predicted["exact_first_order"], found.measured, rtol=0.02)
    assert found.state["covariance"][0] < 0.95
