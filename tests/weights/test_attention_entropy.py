"""Attention entropy: the signal's extremes, and weights that move from anchors to explorers with mean 1."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import entjax as ej
from entjax import attention_entropy
from tests.weights.situation import apply, batch, valid


def with_signal(seed=0, values=None):
    case = batch(seed)
    h = np.random.default_rng(seed).random(case[0].mask.shape) if values is None else values
    return (case[0].replace(extra={"attention_entropy": jnp.asarray(h, jnp.float32)}), *case[1:])


def test_uniform_is_one_focused_is_zero():
    n = np.array([5, 3, 2, 1])
    uniform = (np.arange(6)[None] < n[:, None]) / n[:, None]
    focused = np.eye(6)[[0, 1, 1, 0]]
    h = lambda a: np.asarray(attention_entropy.normalized(jnp.asarray(a, jnp.float32), jnp.asarray(n)))
    np.testing.assert_allclose(h(uniform), [1, 1, 1, 0], rtol=1e-6)  # a context of one key is 0, not 0 / 0
    np.testing.assert_array_equal(h(focused), 0)


def test_of_a_model():
    """Index t describes the position that predicts token t, so it has t keys; a query of zeros looks at them uniformly."""
    model = ej.models.Decoder(ej.models.tiny(vocab=13, width=16, layers=3, heads=2), rngs=nnx.Rngs(0))
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 13, (2, 7)), jnp.int32)
    _, nats = model(tokens, attention_layer=1)
    h = attention_entropy.of_model(model, tokens)
    np.testing.assert_array_equal(h[:, :2], 0)
    np.testing.assert_allclose(h[:, 2:], nats[:, 1:-1] / np.log(np.arange(2, 7)), rtol=1e-5)
    assert float(h.max()) < 1
    model.layers[1]["query"][...] = jnp.zeros_like(model.layers[1]["query"][...])
    np.testing.assert_allclose(attention_entropy.of_model(model, tokens)[:, 2:], 1.0, rtol=1e-5)


def test_weights_follow_the_rank():
    case = with_signal()
    w, h = (
        valid(case, apply(ej.weights.attention_entropy(0.5), case).weight),
        valid(case, case[0].extra["attention_entropy"]),
    )
    rank = np.argsort(np.argsort(h)) / (h.size - 1)
    np.testing.assert_allclose(w, 1 + 0.5 * (2 * rank - 1), rtol=1e-5)
    np.testing.assert_allclose(w.mean(), 1, rtol=1e-6)
    anchors = valid(case, apply(ej.weights.attention_entropy(-0.5), case).weight)
    np.testing.assert_allclose(anchors, 2 - w, rtol=1e-5)
    np.testing.assert_array_equal(apply(ej.weights.attention_entropy(0.0), case).weight, 1)


def test_ties_share_a_weight_and_keep_the_mean():
    h = np.tile([0.1, 0.1, 0.7, 0.7, 0.7, 0.2], (8, 2))[:, :11]
    case = with_signal(values=h)
    w, h = valid(case, apply(ej.weights.attention_entropy(1.0), case).weight), valid(case, h)
    for value in np.unique(h):
        assert np.ptp(w[h == value]) == 0
    np.testing.assert_allclose(w.mean(), 1, rtol=1e-5)


def test_from_anchors_to_explorers():
    """The schedule of the docstring: focused tokens weigh more at first, diffuse ones at the end."""
    rollout, signal, _ = with_signal()
    t = ej.weights.attention_entropy(ej.control.linear(-0.5, 0.5, 4))
    state, slopes = t.init(None), []
    for step in range(5):
        out, state = t.update(signal, state, ej.Context(rollout, {}, step))
        h, w = (valid((rollout,), x) for x in (rollout.extra["attention_entropy"], out.weight))
        slopes.append(np.polyfit(h, w, 1)[0])
    assert slopes[0] < slopes[1] < 0 < slopes[3] < slopes[4] and slopes[2] == pytest.approx(0, abs=1e-6)


def test_sets():
    case = with_signal()
    h, mask = case[0].extra["attention_entropy"], case[0].mask
    low, high = attention_entropy.anchors(h, mask), attention_entropy.explorers(h, mask)
    n = int(mask.sum())
    assert low.sum() == high.sum() == round(0.2 * n)
    assert np.asarray(h)[np.asarray(low)].max() < np.asarray(h)[np.asarray(high)].min()
    assert not (low & ~mask).any() and not (high & ~mask).any()


def test_argument_is_checked():
    with pytest.raises(ValueError, match=r"1\.5"):
        ej.weights.attention_entropy(1.5)
