"""Frozen matrices of eight bits: what rounding costs, what is kept, and what the adapters beside them learn."""

import contextlib
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

import entjax as ej
from entjax.config import ConfigError
from entjax.models import load_hf, save_adapter, save_hf
from entjax.models.int8 import restored, rounded, scale_of
from entjax.models.lora import MATRICES, split
from entjax.setup import build
from tests.models.families import FAMILIES, tokens_of, write_checkpoint
from tests.models.test_lora import CONFIG, moved, run_of


def logits_of(model, tokens):
    return np.asarray(model(tokens) @ model.head())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("summed", [1, 2])
def test_rounding_is_off_by_half_a_step_at_most(dtype, summed):
    w = np.random.default_rng(0).standard_normal((6, 5, 7)).astype(np.float32) * np.geomspace(1e-3, 1e3, 7)
    w[..., 3] = 0
    scale = scale_of(w, summed, jnp.dtype(dtype))
    q = rounded(w, scale)
    assert scale.shape == w.shape[summed:] and q.dtype == jnp.int8 and scale.dtype == jnp.dtype(dtype)
    step = np.abs(w).max(tuple(range(summed))) / 127
    room = (
        0.5 if dtype == "float32" else 0.5 + 127 * 2**-8
    )  # a scale that was rounded down cannot reach the largest
    assert np.all(np.abs(restored(q, scale) - w) <= room * step * 1.001)
    if dtype == "float32":
        reached = np.abs(np.asarray(q, np.int32)).max(tuple(range(summed)))
        assert np.all(reached == np.where(step > 0, 127, 0))


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_computes_with_the_rounded_matrices(name, tmp_path):
    """The model of the rounded matrices, written as a plain checkpoint and read again, gives the same logits."""
    base, tokens = write_checkpoint(tmp_path / "in", FAMILIES[name]), tokens_of(FAMILIES[name])
    scan = len(name) % 2 == 0
    model, exact = (moved(load_hf(base, lora=2, int8=small, scan_layers=scan)) for small in (True, False))
    save_hf(tmp_path / "out", model)
    plain = load_hf(tmp_path / "out")
    np.testing.assert_allclose(logits_of(plain, tokens), logits_of(model, tokens), atol=2e-4)
    off = np.abs(logits_of(model, tokens) - logits_of(exact, tokens))
    assert 1e-4 < np.median(off) < 0.05 * np.abs(logits_of(exact, tokens)).max()


@pytest.mark.parametrize("scan", [False, True])
def test_matrices_are_bytes_and_adapters_are_not(scan, tmp_path):
    base = write_checkpoint(tmp_path, FAMILIES["qwen3"])
    adapters, frozen = split(
        nnx.state(load_hf(base, lora=2, int8=True, dtype="bfloat16", scan_layers=scan), nnx.Param)
    )
    assert {x.dtype.name for x in jax.tree.leaves(adapters)} == {"float32"}
    kinds = {str(path[-2].key): x.dtype.name for path, x in jax.tree_util.tree_leaves_with_path(frozen)}
    assert {kinds[name] for name in MATRICES} == {"int8"}
    assert {kinds[name + "_scale"] for name in MATRICES} == {"bfloat16"}
    assert kinds["embedding"] == "bfloat16" and kinds["norm"] == "float32"
    drawn = ej.models.Decoder(
        load_hf(base, lora=2, int8=True, dtype="bfloat16", scan_layers=scan).config, rngs=nnx.Rngs(0)
    )
    like = jax.tree.map(lambda x: (x.shape, x.dtype), split(nnx.state(drawn, nnx.Param))[1])
    assert like == jax.tree.map(lambda x: (x.shape, x.dtype), frozen)


def test_a_new_model_is_the_plain_one_rounded():
    plain = nnx.to_pure_dict(
        nnx.state(ej.models.Decoder(CONFIG.replace(lora=2), rngs=nnx.Rngs(3)), nnx.Param)
    )
    small = nnx.to_pure_dict(
        nnx.state(ej.models.Decoder(CONFIG.replace(lora=2, int8=True), rngs=nnx.Rngs(3)), nnx.Param)
    )
    for layer in plain["layers"]:
        for name in MATRICES:
            w, found = plain["layers"][layer][name], small["layers"][layer]
            off = np.abs(restored(found[name], found[name + "_scale"]) - w)
            assert np.all(off <= 0.501 * found[name + "_scale"])
            np.testing.assert_array_equal(found[name + "_lora_in"], plain["layers"][layer][name + "_lora_in"])


def test_gradients_of_the_adapters_are_those_of_the_rounded_model(tmp_path):
    model = moved(ej.models.Decoder(CONFIG.replace(lora=2, int8=True), rngs=nnx.Rngs(0)))
    small = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    wide = ej.models.Decoder(CONFIG.replace(lora=2), rngs=nnx.Rngs(0))
    state = nnx.to_pure_dict(nnx.state(wide, nnx.Param))
    for index, layer in small["layers"].items():
        scales = {name: layer.pop(name + "_scale") for name in MATRICES}
        state["layers"][index] = layer | {
            name: jnp.asarray(restored(layer[name], s)) for name, s in scales.items()
        }
    state |= {name: x for name, x in small.items() if name != "layers"}
    params = nnx.state(wide, nnx.Param)
    nnx.replace_by_pure_dict(params, state)
    nnx.update(wide, params)
    tokens = np.arange(19)[None]
    np.testing.assert_allclose(wide(tokens), model(tokens), atol=1e-5)

    def gradient(model):
        adapters, frozen = split(nnx.state(model, nnx.Param))
        graphdef = nnx.split(model)[0]
        together = lambda adapters: nnx.merge(graphdef, nnx.merge_state(adapters, frozen))
        return jax.grad(lambda adapters: jnp.sum(together(adapters)(tokens) ** 3))(adapters)

    ours, theirs = gradient(model), gradient(wide)
    assert max(float(jnp.abs(x).max()) for x in jax.tree.leaves(theirs)) > 0.1
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4), ours, theirs)


def test_an_adapter_goes_back_to_the_same_model(tmp_path):
    base = write_checkpoint(tmp_path / "base", FAMILIES["llama"])
    model = moved(load_hf(base, lora=2, int8=True))
    save_adapter(tmp_path / "adapter", model)
    again = load_hf(base, adapter=tmp_path / "adapter", int8=True)
    jax.tree.map(np.testing.assert_array_equal, nnx.state(again), nnx.state(model))


def test_a_teacher_stays_as_it_is_beside_a_policy_in_eight_bits(tmp_path):
    save_hf(tmp_path / "base", ej.models.Decoder(CONFIG.replace(context=64), rngs=nnx.Rngs(0)))
    options = {"lora": 2, "int8": True, "lora_alpha": 8.0}
    config = dataclasses.replace(run_of(tmp_path / "base"), recipe="distill", teacher=str(tmp_path / "base"))
    with contextlib.closing(build(dataclasses.replace(config, model_options=options))) as parts:
        assert parts.model.config.int8 and not parts.teacher.model.config.int8
        assert {x.dtype.name for x in jax.tree.leaves(nnx.state(parts.teacher.model, nnx.Param))} == {
            "float32"
        }
    with pytest.raises(ConfigError, match="model is a DecoderConfig"):
        dataclasses.replace(config, model=CONFIG, model_options={"int8": True})


def test_weights_that_are_not_finite_are_refused(tmp_path):
    base = write_checkpoint(tmp_path, FAMILIES["llama"])
    tensors = load_file(base / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 4] = np.nan
    save_file(tensors, base / "model.safetensors")
    with pytest.raises(ej.models.CheckpointError, match=r"layers\.1\.mlp\.up_proj.*not finite"):
        load_hf(base, lora=2, int8=True)


def test_eight_bits_are_for_what_is_frozen():
    with pytest.raises(ValueError, match="overflow in float16"):
        CONFIG.replace(int8=True, lora=2, dtype="float16")
    with pytest.raises(ValueError, match="set lora"):
        CONFIG.replace(int8=True)
    with pytest.raises(ValueError, match="int8=1"):
        CONFIG.replace(int8=1, lora=2)
