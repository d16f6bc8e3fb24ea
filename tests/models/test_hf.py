"""Hugging Face folders: loaded, sharded, written, and refused with a sentence when something is wrong."""

import json

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from entjax.models import (
    CheckpointError,
    Rope,
    Sliding,
    abstract_params,
    load_config,
    load_hf,
    logical_axes,
    save_hf,
)
from entjax.models.hf_config import config_from_hf, config_to_hf
from tests.models.families import FAMILIES, shapes_of, tensors_of, write_checkpoint

RAW = FAMILIES["llama"]
INDEX = "model.safetensors.index.json"


def leaves_of(model):
    return jax.tree.leaves(nnx.split(model)[1])


def write_sharded(folder, raw=RAW):
    """Two files and an index, as large checkpoints come."""
    write_checkpoint(folder, raw)
    (folder / "model.safetensors").unlink()
    tensors, placed = tensors_of(raw), {}
    for part, names in enumerate((sorted(tensors)[::2], sorted(tensors)[1::2])):
        file = f"model-{part + 1:05}-of-00002.safetensors"
        save_file({name: tensors[name] for name in names}, folder / file)
        placed |= dict.fromkeys(names, file)
    (folder / INDEX).write_text(json.dumps({"weight_map": placed}))
    return folder


@pytest.mark.parametrize("name", FAMILIES)
def test_written_tensors_are_the_read_ones(name, tmp_path):
    """Exact, names and layout included: importing and exporting move numbers and never change them."""
    raw = FAMILIES[name]
    model = load_hf(write_checkpoint(tmp_path / "in", raw))
    save_hf(tmp_path / "out", model)
    written = load_file(tmp_path / "out" / "model.safetensors")
    expected = tensors_of(raw)
    assert written.keys() == expected.keys()
    for key, tensor in expected.items():
        np.testing.assert_array_equal(written[key], tensor, err_msg=key)
    assert load_config(tmp_path / "out") == model.config


def test_shards_with_an_index_are_read_and_written(tmp_path):
    whole = load_hf(write_checkpoint(tmp_path / "whole", RAW))
    parts = load_hf(write_sharded(tmp_path / "parts"), scan_layers=True)
    np.testing.assert_array_equal(parts.layers["out"][...][2], whole.layers[2]["out"][...])
    save_hf(tmp_path / "out", parts, shard_bytes=30_000)
    files = sorted((tmp_path / "out").glob("model-*.safetensors"))
    assert len(files) > 2 and files[0].name == f"model-00001-of-{len(files):05}.safetensors"
    assert all(file.stat().st_size < 35_000 for file in files)
    index = json.loads((tmp_path / "out" / INDEX).read_text())
    assert index["weight_map"].keys() == shapes_of(RAW).keys()
    assert index["metadata"]["total_size"] == sum(4 * int(np.prod(s)) for s in shapes_of(RAW).values())
    jax.tree.map(np.testing.assert_array_equal, leaves_of(load_hf(tmp_path / "out")), leaves_of(whole))


def test_bfloat16_is_read_kept_and_written(tmp_path):
    tensors = {name: x.astype(ml_dtypes.bfloat16) for name, x in tensors_of(RAW).items()}
    folder = write_checkpoint(tmp_path / "in", RAW, tensors)
    wide, narrow = load_hf(folder, dtype="bfloat16"), load_hf(folder, param_dtype="bfloat16")
    source = tensors["model.layers.1.mlp.up_proj.weight"].T
    assert (
        wide.layers[1]["up"][...].dtype == jnp.float32 and narrow.layers[1]["up"][...].dtype == jnp.bfloat16
    )
    np.testing.assert_array_equal(wide.layers[1]["up"][...], source.astype(np.float32))
    save_hf(tmp_path / "a", narrow)
    save_hf(tmp_path / "b", wide, dtype="bfloat16")
    assert (tmp_path / "a/model.safetensors").read_bytes() == (tmp_path / "b/model.safetensors").read_bytes()
    with safe_open(tmp_path / "a/model.safetensors", framework="numpy") as file:
        assert file.get_slice("model.norm.weight").get_dtype() == "BF16"


@pytest.mark.parametrize("scan", [False, True])
def test_a_sharded_load_puts_every_part_where_it_belongs(scan, tmp_path):
    folder = write_checkpoint(tmp_path, FAMILIES["qwen2"])
    config = load_config(folder, scan_layers=scan)
    mesh = jax.make_mesh((4, 2), ("rows", "columns"), axis_types=(AxisType.Auto,) * 2)
    rule = {"embed": "rows", "mlp": "columns", "kv_heads": "columns", "heads": "columns"}
    params = abstract_params(config)
    shardings = jax.tree.map(
        lambda _, axes: NamedSharding(mesh, PartitionSpec(*(rule.get(axis) for axis in axes))),
        params,
        logical_axes(params),
    )
    model = load_hf(folder, shardings=shardings, scan_layers=scan)
    up = model.layers["up"][...] if scan else model.layers[0]["up"][...]
    assert up.addressable_shards[0].data.shape[-2:] == (32 // 4, 48 // 2)
    found = jax.tree.map(lambda x, s: x.sharding.is_equivalent_to(s, x.ndim), nnx.split(model)[1], shardings)
    assert all(jax.tree.leaves(found))
    plain = load_hf(folder, scan_layers=scan)
    jax.tree.map(np.testing.assert_array_equal, leaves_of(model), leaves_of(plain))


def test_a_copy_of_the_tied_head_is_accepted_and_another_head_is_not(tmp_path):
    raw = FAMILIES["smollm2"]
    tensors = tensors_of(raw)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()
    assert load_hf(write_checkpoint(tmp_path / "copy", raw, tensors)).config.tied
    tensors["lm_head.weight"][0, 0] += 1
    with pytest.raises(
        CheckpointError, match=r"ties the head to the embedding and lm_head.weight is another"
    ):
        load_hf(write_checkpoint(tmp_path / "other", raw, tensors))


def changed(**changes):
    return {key: value for key, value in (RAW | changes).items() if value != "absent"}


@pytest.mark.parametrize(
    "raw, sentence",
    [
        (
            changed(model_type="gpt2", architectures=["GPT2LMHeadModel"]),
            "model_type 'gpt2'; entjax reads llama",
        ),
        (changed(model_type="absent"), "model_type None"),
        (
            changed(architectures=["LlamaForSequenceClassification"]),
            "LlamaForSequenceClassification.*language-model",
        ),
        (changed(hidden_act="gelu"), "activation 'gelu'"),
        (changed(hidden_size="absent"), "hidden_size as a positive whole number and gives None"),
        (changed(num_key_value_heads=3), "heads must be a multiple of kv_heads; got 4 and 3"),
        (changed(quantization_config={"quant_method": "awq"}), "quantised"),
        (changed(partial_rotary_factor=0.5), "only a part of each head"),
        (changed(rope_scaling={"rope_type": "longrope", "factor": 2.0}), "'longrope'.*default, linear"),
        (changed(rope_scaling={"type": "default", "mrope_section": [2, 2]}), "does not know: mrope_section"),
        (changed(rope_scaling={"type": "linear"}), "without saying by which factor"),
        (
            FAMILIES["mistral"] | {"sliding_window": 0},
            "sliding_window as a positive whole number and gives 0",
        ),
        (FAMILIES["gemma3"] | {"layer_types": ["full_attention"]}, "layer_types.*for each of 3 layers"),
        (
            FAMILIES["gemma3"] | {"layer_types": ["chunked_attention"] * 3},
            "chunked.*full_attention or sliding_",
        ),
        (
            FAMILIES["qwen2"] | {"sliding_window": 8, "layer_types": ["sliding_attention"] * 3},
            "use_sliding_window",
        ),
        (FAMILIES["gemma3"] | {"final_logit_softcapping": 30.0}, "sets final_logit_softcapping"),
        (FAMILIES["gemma3"] | {"query_pre_attn_scalar": 168}, "query_pre_attn_scalar=168.*head_dim=12"),
        (
            FAMILIES["gemma3"] | {"hidden_activation": "gelu"},
            "activation 'gelu'; entjax computes gelu_pytorch_tanh",
        ),
    ],
)
def test_what_cannot_be_computed_is_refused(raw, sentence):
    with pytest.raises(CheckpointError, match=sentence):
        config_from_hf(raw)


def test_windows_that_never_bite_are_fine():
    assert config_from_hf(FAMILIES["mistral"] | {"sliding_window": 64}).context == 64
    unused = {"use_sliding_window": False, "sliding_window": 8, "layer_types": ["full_attention"] * 3}
    assert config_from_hf(FAMILIES["qwen2"] | unused).qkv_bias


def test_windows_are_read_in_every_spelling():
    """transformers writes layer_types, older files the rule by which layers have a window."""
    of = lambda family, **changes: config_from_hf(
        {k: v for k, v in (FAMILIES[family] | changes).items() if v != "absent"}
    )
    assert of("mistral", sliding_window=32).sliding == Sliding(32, (True,) * 3)
    later = of("qwen3", use_sliding_window=True, sliding_window=8, max_window_layers=1)
    assert later.sliding == Sliding(8, (False, True, True))
    old = of("gemma3", layer_types="absent", sliding_window_pattern=2)
    assert old.sliding == Sliding(6, (True, False, True), Rope(theta=30.0)) and old.rope.theta == 100.0
    ropes = {"full_attention": {"rope_type": "linear", "rope_theta": 100.0, "factor": 3.0},
             "sliding_attention": {"rope_type": "default", "rope_theta": 30.0}}  # fmt: skip
    new = of(
        "gemma3_scaled",
        rope_theta="absent",
        rope_local_base_freq="absent",
        rope_scaling="absent",
        rope_parameters=ropes,
    )
    assert new == of("gemma3_scaled")
    shipped = of(
        "gemma3",
        rope_theta="absent",
        rope_local_base_freq="absent",
        layer_types="absent",
        num_hidden_layers=7,
    )
    assert (shipped.rope.theta, shipped.sliding.rope.theta) == (1e6, 1e4)
    assert shipped.sliding.layers == (True,) * 5 + (False, True)


def test_both_spellings_of_rope_are_read():
    old = config_from_hf(changed(rope_theta=500.0, rope_scaling={"type": "linear", "factor": 2.0}))
    new = {"rope_theta": 500.0, "rope_type": "linear", "factor": 2.0}
    assert config_from_hf(changed(rope_theta="absent", rope_parameters=new)).rope == old.rope
    assert (old.rope.theta, old.rope.factor) == (500.0, 2.0)
    assert config_from_hf(changed(rope_theta="absent")).rope.theta == 10_000.0


def test_a_decoder_of_no_family_is_not_written():
    config = config_from_hf(FAMILIES["qwen3"]).replace(mlp_bias=True)
    with pytest.raises(CheckpointError, match=r"No Hugging Face family.*qk_norm=True.*mlp_bias=True"):
        config_to_hf(config)
    for changes in ({"gemma": True, "qk_norm": False}, {"sliding": Sliding(3, (True,) * 3, Rope(theta=9.0))}):
        with pytest.raises(CheckpointError, match=r"No Hugging Face family"):
            config_to_hf(config_from_hf(FAMILIES["qwen3"]).replace(**changes))


def break_missing_config(folder):
    (folder / "config.json").unlink()


def break_config_json(folder):
    (folder / "config.json").write_text('{"model_type": "lla')


def break_no_weights(folder):
    (folder / "model.safetensors").unlink()


def break_pickle(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def break_truncated(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def break_header(folder):
    (folder / "model.safetensors").write_bytes(b"\x80\x02" * 50)


def _rewrite(folder, edit):
    tensors = tensors_of(RAW)
    edit(tensors)
    save_file(tensors, folder / "model.safetensors")


def break_missing_tensor(folder):
    _rewrite(folder, lambda t: t.pop("model.layers.2.mlp.up_proj.weight"))


def break_surplus_tensor(folder):
    _rewrite(folder, lambda t: t.update({"model.layers.0.self_attn.q_proj.bias": np.zeros(32, np.float32)}))


def break_shape(folder):
    _rewrite(folder, lambda t: t.update({"model.norm.weight": np.zeros(31, np.float32)}))


def break_quantised(folder):
    _rewrite(folder, lambda t: t.update({"model.norm.weight": np.zeros(32, np.int8)}))


def break_small_embedding(folder):
    vocab = {str(i): i for i in range(38)}
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocab}, "added_tokens": []}))


def break_added_token(folder):
    added = [{"id": 40, "content": "<x>"}]
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"a": 0}}, "added_tokens": added}))


@pytest.mark.parametrize(
    "damage, sentence",
    [
        (break_missing_config, "config.json is missing"),
        (break_config_json, "could not be read as JSON"),
        (break_no_weights, "holds no safetensors file"),
        (break_pickle, "pytorch_model.bin, a pickle, and opening a pickle runs"),
        (break_truncated, "not a whole safetensors file.*cut off"),
        (break_header, "not a whole safetensors file"),
        (break_missing_tensor, "lacks 1 tensors.*model.layers.2.mlp.up_proj.weight"),
        (break_surplus_tensor, "does not explain: model.layers.0.self_attn.q_proj.bias"),
        (break_shape, r"model.norm.weight.*\(31,\) where config.json says \(32,\)"),
        (break_quantised, "stored as I8"),
        (break_small_embedding, "38 tokens and the embedding only 37 rows"),
        (break_added_token, "41 tokens and the embedding only 37 rows"),
    ],
)
def test_damaged_folders_are_refused(damage, sentence, tmp_path):
    folder = write_checkpoint(tmp_path, RAW)
    load_hf(folder)
    damage(folder)
    with pytest.raises(CheckpointError, match=sentence):
        load_hf(folder)


def place(folder, file):
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"]["model.norm.weight"] = file
    (folder / INDEX).write_text(json.dumps(index))


@pytest.mark.parametrize(
    "damage, sentence",
    [
        (lambda f: place(f, "../other/model.safetensors"), r"'../other/model.safetensors'; only plain names"),
        (lambda f: place(f, "/etc/model.safetensors"), "only plain names"),
        (lambda f: place(f, "..\\model.safetensors"), "only plain names"),
        (lambda f: place(f, "model.bin"), "only plain names of safetensors"),
        (lambda f: place(f, 3), "only plain names"),
        (
            lambda f: (f / "model-00002-of-00002.safetensors").unlink(),
            "lacks model-00002-of-00002.safetensors of",
        ),
        (lambda f: place(f, "model-00001-of-00002.safetensors"), "lacks model.norm.weight, which"),
        (lambda f: (f / INDEX).write_text("{}"), "no weight_map"),
    ],
)
def test_damaged_indexes_are_refused(damage, sentence, tmp_path):
    folder = write_sharded(tmp_path)
    assert "model.norm.weight" in load_file(folder / "model-00002-of-00002.safetensors")
    damage(folder)
    with pytest.raises(CheckpointError, match=sentence):
        load_hf(folder)


def test_a_name_on_a_hub_is_not_a_folder():
    with pytest.raises(CheckpointError, match=r"Qwen/Qwen3-8B is not a folder.*hf download Qwen/Qwen3-8B"):
        load_hf("Qwen/Qwen3-8B")
    with pytest.raises(CheckpointError, match=r"downloads none\.$"):
        load_hf("models/Qwen3-8B")


def test_a_folder_with_a_checkpoint_is_not_overwritten(tmp_path):
    model = load_hf(write_checkpoint(tmp_path, RAW))
    with pytest.raises(CheckpointError, match="already holds a checkpoint"):
        save_hf(tmp_path, model)
