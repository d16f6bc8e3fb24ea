"""Configurations, rotary positions, first values and logical axes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from entjax.models import Decoder, Rope, Sliding, abstract_params, logical_axes, tiny
from entjax.models.rope import cos_sin, inverse_frequencies, rotate
from entjax.sampler import Sampling, make_sampler


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"heads": 3, "kv_heads": 2}, "multiple of kv_heads; got 3 and 2"),
        ({"head_dim": 7}, "even.*got 7"),
        ({"layers": 0}, "layers must be a positive whole number; got 0"),
        ({"remat": "some"}, "remat must be one of none, full, dots; got 'some'"),
        ({"dtype": "int32"}, "dtype must be a floating type"),
        ({"sliding": Sliding(0, (True,))}, "at least one token; got 0"),
        ({"sliding": Sliding(4, (True,))}, r"each of the \d+ layers; got 1 entries"),
        (
            {"layers": 1, "sliding": Sliding(4, (True,), Rope("dynamic"))},
            "cannot have rope scaling 'dynamic'",
        ),
    ],
)
def test_impossible_configs_are_refused(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        tiny(19, **changes)


@pytest.mark.parametrize(
    "fields, sentence",
    [
        ({"kind": "longrope"}, "'longrope' is not supported"),
        ({"kind": "yarn", "factor": 4.0}, "needs original_context"),
        ({"theta": 0.0}, "must be positive"),
        ({"kind": "llama3", "original_context": 8, "low_freq_factor": 4.0}, "low_freq_factor below"),
    ],
)
def test_impossible_rope_is_refused(fields, sentence):
    with pytest.raises(ValueError, match=sentence):
        Rope(**fields)


def test_rows_beyond_the_context_of_dynamic_rope_are_refused():
    config = tiny(19, context=8, rope=Rope("dynamic", factor=2.0))
    model = Decoder(config, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="Rows of 9 tokens go beyond the context of 8"):
        model(jnp.zeros((1, 9), jnp.int32))
    sample = lambda length, new: make_sampler(model, eos_ids=[1]).generate(
        nnx.state(model), [[2] * length], Sampling(max_new_tokens=new), key=jax.random.key(0)
    )
    assert sample(5, 3).tokens.shape[0] == 1  # a bucket of 16 slots, but no token behind the context
    with pytest.raises(ValueError, match="Rows of 9 tokens"):
        sample(8, 1)


def test_default_frequencies_are_the_powers_of_theta():
    found, factor = inverse_frequencies(Rope(theta=10_000.0), 64)
    np.testing.assert_allclose(found, 10_000.0 ** (-np.arange(0, 64, 2) / 64), rtol=1e-6)
    assert found.dtype == np.float32 and factor == 1.0


def test_llama3_keeps_short_waves_and_slows_long_ones():
    rope = Rope("llama3", 500_000.0, factor=8.0, original_context=8192)
    scaled, plain = inverse_frequencies(rope, 128)[0], inverse_frequencies(Rope(theta=500_000.0), 128)[0]
    turns = 8192 * plain.astype(np.float64) / (2 * np.pi)
    ratio = scaled / plain
    np.testing.assert_allclose(ratio[turns > 4], 1)
    np.testing.assert_allclose(ratio[turns < 1], 1 / 8)
    between = (turns > 1) & (turns < 4)
    np.testing.assert_allclose(ratio[between], 1 / 8 + (turns[between] - 1) / 3 * 7 / 8, rtol=1e-5)
    assert between.any()


def test_rotated_products_depend_on_the_distance_only():
    q, k = jax.random.normal(jax.random.key(0), (2, 1, 1, 1, 16))
    rope = Rope("yarn", 100.0, 2.0, original_context=16, attention_factor=1.5)

    def product(at_q, at_k):
        turned = [rotate(x, *cos_sin(rope, 16, jnp.array([[p]]))) for x, p in ((q, at_q), (k, at_k))]
        return float(jnp.sum(turned[0] * turned[1]))

    assert product(7, 3) == pytest.approx(product(24, 20), abs=1e-4)
    assert abs(product(7, 3) - product(7, 4)) > 1e-2
    # One complex rotation by hand: the first pair turns by the distance itself (w_0 = 1).
    plain = rotate(q, *cos_sin(Rope(), 16, jnp.array([[5]])))[0, 0, 0]
    pair = (complex(q[0, 0, 0, 0], q[0, 0, 0, 8])) * np.exp(5j)
    np.testing.assert_allclose([plain[0], plain[8]], [pair.real, pair.imag], atol=1e-5)


def test_the_quickstart_size_and_first_values():
    model = Decoder(tiny(19), rngs=nnx.Rngs(0))
    params = nnx.split(model)[1]
    # Per layer 4 * 64 * 64 + 3 * 64 * 176 + 2 * 64; then the tied embedding and the last norm.
    assert sum(x.size for x in jax.tree.leaves(params)) == 3 * (16_384 + 33_792 + 128) + 19 * 64 + 64
    assert np.std(model.layers[0]["up"][...]) == pytest.approx(64**-0.5, rel=0.05)
    assert np.std(model.layers[0]["down"][...]) == pytest.approx((176 * 6) ** -0.5, rel=0.05)
    logits = model(jnp.arange(19)[None]) @ model.head()
    probabilities = np.asarray(jax.nn.softmax(logits))
    assert -np.sum(probabilities * np.log(probabilities), axis=-1).mean() > np.log(19) - 0.1  # starts uniform
    first, second = model.layers[0]["up"][...], model.layers[1]["up"][...]
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.05


@pytest.mark.parametrize("scan", [False, True])
def test_logical_axes_name_every_dimension(scan):
    config = tiny(19, scan_layers=scan, qk_norm=True, qkv_bias=True, out_bias=True, mlp_bias=True, tied=False)
    params = abstract_params(config)
    sizes = {
        "vocab": 19,
        "embed": 64,
        "norm": 64,
        "heads": 4,
        "kv_heads": 4,
        "head_dim": 16,
        "mlp": 176,
        "layers": 3,
    }

    def check(leaf, axes):
        assert leaf.shape == tuple(sizes[axis] for axis in axes)
        return leaf

    jax.tree.map(check, params, logical_axes(params))
    layers = logical_axes(params)["layers"]
    query = (layers if scan else layers[2])["query"].get_value()
    assert query == ("layers",) * scan + ("embed", "heads", "head_dim")


def test_logical_axes_of_an_optimizer_state():
    params = nnx.split(Decoder(tiny(19), rngs=nnx.Rngs(0)))[1]
    state = optax.adam(1e-3).init(params)
    axes = logical_axes(state)
    assert axes[0].count == ()
    assert axes[0].mu["layers"][0]["down"].get_value() == ("mlp", "embed")
    with pytest.raises(ValueError, match="is not a weight"):
        logical_axes({"something": jnp.zeros((2, 2))})
