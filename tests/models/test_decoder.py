"""The ways to run a decoder give the same numbers: cached, packed, scanned, rematerialised, in bfloat16."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from entjax.models import Decoder, Rope, Sliding, init_cache, load_hf, take_rows, tiny
from tests.models.families import FAMILIES, tokens_of, write_checkpoint

V = 23
# One layer sees everything, the other its last three tokens, turned by another rope.
WINDOWED = {"sliding": Sliding(3, (False, True), Rope(theta=20.0)), "gemma": True}
KINDS = pytest.mark.parametrize("kind", [{}, WINDOWED], ids=["plain", "windowed"])


def decoder(seed=0, **changes):
    """A small decoder whose attention is far from uniform."""
    changes = {"width": 32, "layers": 2, "kv_heads": 2, "rope": Rope(theta=50.0)} | changes
    model = Decoder(tiny(V, **changes), rngs=nnx.Rngs(seed))
    graphdef, params = nnx.split(model)
    return nnx.merge(graphdef, jax.tree.map(lambda x: x * 2 if x.ndim > 1 else x, params))


@functools.partial(jax.jit, static_argnums=(0, 4, 5))
def _call(graphdef, params, tokens, positions, window, attention_layer, arrays):
    model = nnx.merge(graphdef, params)
    return model(tokens, positions, window=window, attention_layer=attention_layer, **arrays)


def run(model, tokens, positions=None, *, window=None, attention_layer=None, **arrays):
    """The model under jit, as everyone calls it."""
    return _call(*nnx.split(model), tokens, positions, window, attention_layer, arrays)


def ids(batch, length, seed=1):
    return jax.random.randint(jax.random.key(seed), (batch, length), 0, V)


def grid(batch, start, stop):
    return jnp.broadcast_to(jnp.arange(start, stop, dtype=jnp.int32)[None], (batch, stop - start))


def close(a, b, tolerance=1e-5):
    np.testing.assert_allclose(np.asarray(a, np.float64), np.asarray(b, np.float64), atol=tolerance, rtol=0)


@KINDS
@pytest.mark.parametrize("scan", [False, True])
def test_token_by_token_equals_the_whole(scan, kind):
    model, tokens = decoder(scan_layers=scan, **kind), ids(3, 12)
    whole = run(model, tokens)
    hidden, cache = run(model, tokens[:, :5], cache=init_cache(model.config, 3, 16))
    close(hidden, whole[:, :5])
    for t in range(5, 12):
        hidden, cache = run(model, tokens[:, t : t + 1], grid(3, t, t + 1), cache=cache, window=12)
        close(hidden[:, 0], whole[:, t])


@KINDS
def test_padded_prefill_then_rows_at_their_own_positions(kind):
    model, tokens = decoder(qk_norm=True, **kind), ids(3, 14)
    whole = run(model, tokens)
    lengths = jnp.array([3, 8, 5])
    padded = jnp.where(jnp.arange(8)[None] < lengths[:, None], tokens[:, :8], 0)
    _, cache = run(model, padded, cache=init_cache(model.config, 3, 14))
    for step in range(6):
        at = lengths + step
        hidden, cache = run(model, jnp.take_along_axis(tokens, at[:, None], axis=1), at[:, None], cache=cache)
        close(hidden[:, 0], whole[jnp.arange(3), at])


@KINDS
def test_a_long_prompt_in_two_pieces_and_forked_rows(kind):
    model, tokens = decoder(**kind), ids(2, 10)
    _, cache = run(model, tokens[:, :4], cache=init_cache(model.config, 2, 10))
    _, cache = run(model, tokens[:, 4:7], grid(2, 4, 7), cache=cache)
    rows = jnp.array([1, 0, 1])
    forks = ids(3, 3, seed=5)
    hidden, _ = run(model, forks, grid(3, 7, 10), cache=take_rows(cache, rows))
    whole = run(model, jnp.concatenate([tokens[rows, :7], forks], axis=1))
    close(hidden, whole[:, 7:])


def test_positions_outside_the_cache_are_not_written():
    model, tokens = decoder(), ids(1, 6)
    _, cache = run(model, tokens[:, :3], cache=init_cache(model.config, 1, 4))
    for outside in (4, 100, -1):
        hidden, after = run(model, tokens[:, 3:4], jnp.full((1, 1), outside, jnp.int32), cache=cache)
        assert np.isfinite(hidden).all()
        jax.tree.map(np.testing.assert_array_equal, cache, after)


def test_a_token_sees_nothing_after_it():
    model, tokens = decoder(), ids(1, 9)
    changed = tokens.at[0, 5].set((tokens[0, 5] + 1) % V)
    before, after = run(model, tokens), run(model, changed)
    np.testing.assert_array_equal(before[:, :5], after[:, :5])
    assert (np.abs(np.asarray(before - after))[0, 5:].max(axis=-1) > 1e-3).all()


def test_a_windowed_token_sees_its_window_and_no_more():
    """In two layers with windows of 3 a token sees 2 * 2 tokens back."""
    model, tokens = decoder(sliding=Sliding(3, (True, True))), ids(1, 12)
    changed = tokens.at[0, 5].set((tokens[0, 5] + 1) % V)
    moved = np.abs(np.asarray(run(model, tokens) - run(model, changed)))[0].max(axis=-1)
    assert (moved[5:10] > 1e-4).all() and (moved[:5] == 0).all() and (moved[10:] == 0).all()


def test_a_window_that_holds_the_row_changes_nothing():
    tokens = ids(2, 9)
    wide = decoder(sliding=Sliding(9, (True, True)))
    np.testing.assert_array_equal(run(wide, tokens), run(decoder(), tokens))


@KINDS
def test_packed_rows_equal_separate_rows(kind):
    model = decoder(qkv_bias=True, **kind)
    one, two, three = ids(1, 4, 2), ids(1, 7, 3), ids(1, 3, 4)
    packed = jnp.concatenate([one, two, three], axis=1)
    positions = jnp.concatenate([grid(1, 0, 4), grid(1, 0, 7), grid(1, 0, 3)], axis=1)
    segments = jnp.repeat(jnp.array([1, 2, 0]), jnp.array([4, 7, 3]))[None]
    hidden = run(model, packed, positions, segments=segments)
    close(hidden, jnp.concatenate([run(model, one), run(model, two), run(model, three)], axis=1))


@pytest.mark.parametrize("name", ["llama_biases", "qwen3", "gemma3", "qwen2_sliding"])
def test_scanned_equals_unrolled(name, tmp_path):
    folder, tokens = write_checkpoint(tmp_path, FAMILIES[name]), tokens_of(FAMILIES[name])
    plain, scanned = load_hf(folder), load_hf(folder, scan_layers=True)
    assert scanned.layers["query"][...].shape[0] == 3
    close(run(scanned, tokens), run(plain, tokens))
    a, b = (run(m, tokens, cache=init_cache(m.config, 2, 40), attention_layer=1) for m in (plain, scanned))
    close(a[0], b[0])
    close(a[2], b[2])
    close(jnp.concatenate([k.swapaxes(3, 4) for k in a[1].k]), b[1].k[0])  # own arrays, slots last
    close(jnp.concatenate(a[1].v), b[1].v[0])


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("remat", ["full", "dots"])
def test_rematerialised_gradients_are_equal(scan, remat):
    tokens, weights = ids(2, 6), jax.random.normal(jax.random.key(9), (2, 6, 32))
    plain = decoder(scan_layers=scan, **WINDOWED)
    params = nnx.split(plain)[1]

    def gradient(config):
        graphdef = nnx.split(Decoder(config, rngs=nnx.Rngs(0)))[0]
        return jax.jit(jax.grad(lambda p: jnp.sum(nnx.merge(graphdef, p)(tokens) * weights)))(params)

    expected, found = gradient(plain.config), gradient(plain.config.replace(remat=remat))
    assert max(np.abs(x).max() for x in jax.tree.leaves(expected)) > 0.1
    jax.tree.map(lambda a, b: close(a, b, 2e-5 * max(1, np.abs(a).max())), expected, found)


@pytest.mark.parametrize("vocab", [V, 600])
def test_the_embedding_gradient_counts_tokens(vocab):
    """Both look-ups, by matmul and by gather: d sum(E[tokens]) / dE = how often each token occurs."""
    from entjax.models.decoder import look_up

    config, tokens = tiny(vocab, width=8), ids(2, 9)
    table = jax.random.normal(jax.random.key(0), (vocab, 8))
    np.testing.assert_array_equal(look_up(table, tokens, config), np.asarray(table)[np.asarray(tokens)])
    found = jax.grad(lambda e: jnp.sum(look_up(e, tokens, config)))(table)
    np.testing.assert_allclose(found[:, 0], np.bincount(np.asarray(tokens).ravel(), minlength=vocab))


def test_bfloat16_compute_keeps_float32_weights_and_statistics():
    model, tokens = decoder(), ids(2, 10)
    graphdef = nnx.split(Decoder(model.config.replace(dtype="bfloat16"), rngs=nnx.Rngs(0)))[0]
    half = nnx.merge(graphdef, nnx.split(model)[1])
    hidden = run(half, tokens)
    assert hidden.dtype == jnp.bfloat16 and half.embedding[...].dtype == jnp.float32
    difference = np.abs(np.asarray(hidden, np.float32) - np.asarray(run(model, tokens)))
    assert 0 < difference.mean() < 0.03 and difference.max() < 0.3
    assert init_cache(half.config, 1, 2).k[0].dtype == jnp.bfloat16


def test_attention_entropy_is_that_of_its_layer():
    model, tokens = decoder(layers=3), ids(2, 7)
    hidden, entropy = run(model, tokens, attention_layer=1)
    close(hidden, run(model, tokens))
    assert entropy.shape == (2, 7)
    close(entropy[:, 0], 0)  # the first token sees only itself
    assert (np.asarray(entropy) <= np.log(np.arange(1, 8)) + 1e-6).all()
    # With queries of zero every visible token weighs the same: log(t + 1).
    model.layers[1]["query"][...] = jnp.zeros_like(model.layers[1]["query"][...])
    close(run(model, tokens, attention_layer=1)[1], np.log(np.arange(1, 8))[None].repeat(2, axis=0))


def test_attention_entropy_averages_the_heads_first():
    """One head on the first token, one on the second: log 2, where the mean of the heads' entropies would be 0."""
    from entjax.models.attention import entropy_of_attention

    p = jnp.array([[1.0, 0.0], [0.0, 1.0]]).reshape(1, 2, 1, 1, 2)
    close(entropy_of_attention(p), [[np.log(2)]], 1e-6)


def test_the_graph_holds_weights_only_and_hashes():
    graphdef, params = nnx.split(decoder())
    assert hash(graphdef) == hash(nnx.split(decoder(seed=3))[0])
    assert all(
        isinstance(x, nnx.Param) for x in jax.tree.leaves(params, is_leaf=lambda x: isinstance(x, nnx.Param))
    )


def test_constrain_sees_the_hidden_states_and_may_change_nothing():
    seen = []

    def constrain(x, axes):
        seen.append((x.shape, axes))
        return x

    plain = decoder()
    graphdef = nnx.split(Decoder(plain.config, rngs=nnx.Rngs(0), constrain=constrain))[0]
    tokens = ids(3, 12)
    close(run(nnx.merge(graphdef, nnx.split(plain)[1]), tokens), run(plain, tokens))
    assert set(seen) == {((3, 12, 32), ("batch", "sequence", "embed"))}


@pytest.mark.parametrize(
    "call, sentence",
    [
        (lambda m, t, c: m(t, segments=t, cache=c), "segments or a cache"),
        (lambda m, t, c: m(t, window=3), "no cache"),
        (lambda m, t, c: m(t, cache=c, window=9), "window 9 with a cache of 8 slots"),
        (lambda m, t, c: m(t, attention_layer=2), "one of the 2 layers"),
        (lambda m, t, c: init_cache(m.config, 0, 4), "at least one row"),
    ],
)
def test_wrong_calls_are_refused(call, sentence):
    model = decoder()
    with pytest.raises(ValueError, match=sentence):
        call(model, ids(1, 4), init_cache(model.config, 1, 8))
