"""DGPO: Hellinger weights."""

import jax.numpy as jnp
import numpy as np

from entjax.advantages import dgpo
from entjax.advantages.dgpo import entropy_share
from entjax.features import hellinger
from entjax.vocab import Row, finite_logits
from tests.advantages.situation import apply, batch


def read(logits, reference):
    row = Row(
        jnp.asarray(logits), jnp.zeros(logits.shape[:-1], jnp.int32), {"ref_logits": jnp.asarray(reference)}
    )
    return {"hellinger": hellinger(row), "entropy_share": entropy_share(row)}


def logits(seed):
    return (3 * np.random.default_rng(seed).normal(size=(8, 11, 17))).astype(np.float32)


def weights(t, stats):
    rollout, signal = batch()
    return rollout, apply(
        t, rollout, signal.replace(advantage=rollout.mask.astype(jnp.float32)), **stats
    ).advantage


def test_equal_policies_give_grpo_without_kl():
    same = read(logits(0), logits(0))
    np.testing.assert_allclose(same["hellinger"], 0, atol=1e-6)
    rollout, w = weights(dgpo(), same)
    np.testing.assert_allclose(w, rollout.mask, atol=1e-5)


def test_weights_sum_to_the_length_and_stay_within_e_to_the_two():
    stats = read(logits(0), logits(1))
    rollout, w = weights(dgpo(), stats)
    np.testing.assert_allclose(w.sum(1), rollout.mask.sum(1), rtol=1e-5)
    for row, mask in zip(np.asarray(w), np.asarray(rollout.mask)):
        assert row[mask].max() / row[mask].min() <= np.exp(2) + 1e-4
        assert mask.sum() == 1 or row[mask].std() > 0
        assert mask.sum() != 1 or abs(row[mask][0] - 1) < 1e-6


def test_kappa_zero_removes_the_entropy_gate():
    stats = read(logits(0), logits(1))
    shut = {**stats, "entropy_share": jnp.zeros_like(stats["entropy_share"])}
    np.testing.assert_array_equal(weights(dgpo(kappa=0.0), stats)[1], weights(dgpo(kappa=0.0), shut)[1])
    assert not np.array_equal(weights(dgpo(), stats)[1], weights(dgpo(), shut)[1])


def test_forbidden_tokens_and_disjoint_supports():
    p, q = np.full((1, 1, 4), -np.inf, np.float32), np.full((1, 1, 4), -np.inf, np.float32)
    p[..., :2], q[..., 1:3] = 0, 0
    found = read(finite_logits(p), finite_logits(q))
    np.testing.assert_allclose(found["hellinger"], 0.5, atol=1e-6)
    np.testing.assert_allclose(found["entropy_share"], 0.5, atol=1e-6)
