"""ECHO: hybrid shaping and confidence clip."""

import jax.numpy as jnp
import numpy as np
import pytest

import entjax as ej
from entjax.advantages import echo_shaping
from entjax.advantages.echo_shaping import top_k_confidence
from entjax.vocab import Row
from tests.advantages.situation import apply, batch, on


def test_switched_off_it_changes_nothing():
    rollout, signal = batch(topk_prob_5=np.random.default_rng(0).random((8, 11)).astype(np.float32))
    out = apply(echo_shaping(multiply=0.0), rollout, signal)
    np.testing.assert_array_equal(out.advantage, signal.advantage)


def test_shaping_against_numpy():
    rollout, signal = batch()
    t = echo_shaping(alpha=0.7, beta=1.3, s_max=1.0, multiply=0.5, add=0.3, confidence="token_prob")
    ours = on(rollout, apply(t, rollout, signal).advantage)
    white = lambda x: (x - x.mean()) / np.sqrt(x.var(ddof=1) + 1e-8)
    entropy, p = on(rollout, rollout.entropy), on(rollout, jnp.exp(jnp.minimum(rollout.old_logp, 0)))
    s = np.clip(0.7 * white(entropy) + 1.3 * white(1 - p), -1, 1)
    group = on(rollout, jnp.broadcast_to(rollout.group[:, None], (8, 11)))
    mean = np.array([s[group == g].mean() for g in group])
    np.testing.assert_allclose(
        ours, on(rollout, signal.advantage) * (1 + 0.5 * s) + 0.3 * (s - mean), atol=1e-5
    )


def test_confidence_features():
    logits = np.random.default_rng(0).normal(size=(3, 7)).astype(np.float32)
    p = np.sort(np.exp(logits.astype(np.float64)) / np.exp(logits.astype(np.float64)).sum(-1, keepdims=True))[
        :, ::-1
    ]
    row = Row(jnp.asarray(logits), jnp.zeros(3, jnp.int32))
    np.testing.assert_allclose(top_k_confidence("topk_prob", 2)(row), p[:, :2].mean(1), rtol=1e-5)
    np.testing.assert_allclose(
        top_k_confidence("neg_mean_logprob", 2)(row), -np.log(p[:, :2]).mean(1), rtol=1e-5
    )
    np.testing.assert_allclose(top_k_confidence("topk_prob", 50)(row), 1 / 7, rtol=1e-5)
    assert top_k_confidence("topk_prob", 2) is top_k_confidence("topk_prob", 2)
    assert set(echo_shaping().remembers) == set(ej.clips.echo().remembers) == {"topk_prob_5"}
    ej.chain(echo_shaping(), ej.clips.echo())  # one shared feature, no clash


def test_clip_narrows_with_the_confidence_of_the_tail_only():
    rollout, signal = batch()
    confidence = np.tile(np.linspace(0, 1, 8, dtype=np.float32)[:, None], (1, 11))
    confidence[:, :3] = 0.99  # the head must not count for W = 2
    rollout = rollout.replace(mask=jnp.ones((8, 11), bool), extra={"topk_prob_5": jnp.asarray(confidence)})
    signal = signal.replace(mask=rollout.mask)
    out = apply(ej.clips.echo(window=2), rollout, signal)
    eps = np.asarray(out.clip_high[:, 0] - 1)
    expected = 0.05 + 0.15 / (1 + np.exp(-4 * (1 - np.linspace(0, 1, 8))))
    np.testing.assert_allclose(eps, expected, atol=1e-6)
    np.testing.assert_allclose(1 - out.clip_low[:, 3], expected, atol=1e-6)
    assert eps.min() >= 0.125 - 1e-6 and eps.max() <= 0.2, "eps_min is unreachable, as released"
    whole = np.asarray(apply(ej.clips.echo(window=0), rollout, signal).clip_high[:, 0])
    assert (whole[:4] < out.clip_high[:4, 0]).all()


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="'perplexity'"):
        echo_shaping(confidence="perplexity")
    with pytest.raises(ValueError, match=r"eps_min=0\.3"):
        ej.clips.echo(eps_min=0.3)


def test_two_clip_rules_raise_and_two_entropy_scalings_warn():
    with pytest.raises(ValueError, match="both own 'clip'"):
        ej.chain(ej.clips.echo(), ej.clips.hapo())
    with pytest.warns(UserWarning, match="roughly cancel"):
        ej.chain(ej.advantages.ear(), echo_shaping())
    with pytest.warns(UserWarning, match="EMPG holds back"):
        ej.chain(ej.advantages.empg(), ej.advantages.entropy_bonus())
    with pytest.warns(UserWarning, match="replaces the KL"):
        ej.chain(ej.advantages.dgpo(), ej.regularizers.kl())
