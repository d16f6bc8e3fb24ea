"""PEFT folders: the same model after writing and reading, what peft makes of ours and we of peft's, and what is refused."""

import json

import jax
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from entjax.models import CheckpointError, load_hf, save_adapter
from entjax.models.lora import INPUT, split
from entjax.models.peft import CONFIG, PREFIX, TENSORS
from tests.models.families import FAMILIES, tokens_of, write_checkpoint
from tests.models.test_lora import layer, moved

RAW = FAMILIES["qwen3"]
TOKENS = tokens_of(RAW)


def logits_of(model):
    return np.asarray(model(TOKENS) @ model.head())


@pytest.fixture
def base(tmp_path):
    return write_checkpoint(tmp_path / "base", RAW)


@pytest.fixture
def written(base, tmp_path):
    """An adapter that does something, as a folder, with its model."""
    model = moved(load_hf(base, lora=3, lora_alpha=6.0))
    save_adapter(tmp_path / "adapter", model, base)
    return tmp_path / "adapter", model


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_comes_back_to_the_bit(name, tmp_path):
    base = write_checkpoint(tmp_path / "base", FAMILIES[name])
    model = moved(load_hf(base, lora=2, scan_layers=True))
    save_adapter(tmp_path / "out", model)
    again = load_hf(base, adapter=tmp_path / "out")
    assert (again.config.lora, again.config.lora_alpha) == (2, 32.0)
    scanned = load_hf(base, adapter=tmp_path / "out", scan_layers=True)
    jax.tree.map(np.testing.assert_array_equal, nnx.state(scanned), nnx.state(model))
    tokens = tokens_of(FAMILIES[name])
    np.testing.assert_allclose(again(tokens), model(tokens), atol=2e-4)


def test_a_matrix_without_an_adapter_begins_without_one(base, written):
    folder, model = written
    tensors = load_file(folder / TENSORS)
    kept = {name: x for name, x in tensors.items() if "q_proj" in name}
    save_file(kept, folder / TENSORS)
    partly = load_hf(base, adapter=folder)
    ours, full = (layer(nnx.state(m, nnx.Param), 0, False) for m in (partly, model))
    np.testing.assert_array_equal(ours["query" + INPUT], full["query" + INPUT])
    assert not np.any(ours["gate_lora_out"]) and np.any(ours["gate" + INPUT])
    tensors |= {name: 0 * x for name, x in tensors.items() if "q_proj" not in name and "lora_B" in name}
    save_file(tensors, folder / TENSORS)
    np.testing.assert_array_equal(logits_of(partly), logits_of(load_hf(base, adapter=folder)))


def test_rank_stabilised_scaling_is_read(base, written):
    """alpha / sqrt(r) instead of alpha / r."""
    folder, model = written
    raw = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(raw | {"use_rslora": True, "lora_alpha": 6.0 / 3**0.5}))
    np.testing.assert_allclose(logits_of(load_hf(base, adapter=folder)), logits_of(model), atol=1e-5)


def _peft(base, folder):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, attn_implementation="eager")
    model = PeftModel.from_pretrained(model, folder)
    with torch.no_grad():
        return model, model(torch.tensor(np.asarray(TOKENS))).logits.numpy()


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of transformers to peft
def test_peft_opens_what_is_written_with_the_same_logits(base, written):
    pytest.importorskip("peft")
    folder, model = written
    theirs = _peft(base, folder)[1]
    assert np.abs(theirs - logits_of(load_hf(base))).max() > 0.1
    np.testing.assert_allclose(theirs, logits_of(model), atol=2e-4)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of transformers to peft
@pytest.mark.parametrize("stabilised", [False, True])
def test_what_peft_writes_opens_with_the_same_logits(stabilised, base, tmp_path):
    peft = pytest.importorskip("peft")
    import torch
    from transformers import AutoModelForCausalLM

    config = peft.LoraConfig(
        r=4, lora_alpha=10, target_modules=["q_proj", "v_proj", "down_proj"], task_type="CAUSAL_LM",
        use_rslora=stabilised,
    )  # fmt: skip
    made = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    torch.manual_seed(0)
    for name, weight in made.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.2)
    made.save_pretrained(tmp_path / "theirs")
    theirs = _peft(base, tmp_path / "theirs")[1]
    ours = logits_of(load_hf(base, adapter=tmp_path / "theirs"))
    assert np.abs(theirs - logits_of(load_hf(base))).max() > 0.1
    np.testing.assert_allclose(ours, theirs, atol=2e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "IA3"}, "'IA3'; only LORA"),
        ({"use_dora": True}, "use_dora=True.*merge_and_unload"),
        ({"rank_pattern": {"q_proj": 8}}, "rank_pattern"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights='pissa'"),
        ({"r": 0}, "both positive; got 0"),
        ({"lora_alpha": None}, "got 3 and None"),
    ],
)  # fmt: skip
def test_settings_that_are_more_than_a_product_are_refused(changes, message, base, written):
    raw = json.loads((written[0] / CONFIG).read_text())
    (written[0] / CONFIG).write_text(json.dumps(raw | changes))
    with pytest.raises(CheckpointError, match=message):
        load_hf(base, adapter=written[0])


def _rewrite(folder, change):
    save_file(change(load_file(folder / TENSORS)), folder / TENSORS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t | {PREFIX + "lm_head.lora_A.weight": np.zeros((3, 4), np.float32)}, "holds lm_head.lora_A.*nowhere else"),
        (lambda t: {"x.weight": np.zeros(3, np.float32)}, "holds x.weight"),
        (lambda t: {n: x for n, x in t.items() if "0.mlp.up_proj.lora_B" not in n}, "only one of the two factors.*up_proj"),
        (lambda t: {n: x[:2] if "lora_A" in n else x[:, :2] for n, x in t.items()}, "has shape \\(2, 48\\)"),
        (lambda t: {n: x.astype(np.int8) for n, x in t.items()}, "stored as I8"),
    ],
)  # fmt: skip
def test_tensors_that_would_be_lost_or_do_not_fit_are_refused(change, message, base, written):
    _rewrite(written[0], lambda tensors: {n: np.ascontiguousarray(x) for n, x in change(tensors).items()})
    with pytest.raises(CheckpointError, match=message):
        load_hf(base, adapter=written[0])


def test_other_files_of_a_trainer_are_left_alone(base, written):
    (written[0] / "model.safetensors").write_bytes((base / "model.safetensors").read_bytes())
    np.testing.assert_array_equal(logits_of(load_hf(base, adapter=written[0])), logits_of(written[1]))
    (written[0] / TENSORS).rename(written[0] / "adapter_model.bin")
    with pytest.raises(CheckpointError, match=r"lacks adapter_model\.safetensors.*no pickles"):
        load_hf(base, adapter=written[0])


def test_the_sentence_names_what_to_do(base, written, tmp_path):
    with pytest.raises(CheckpointError, match=r"holds no adapter_config\.json"):
        load_hf(base, adapter=tmp_path)
    with pytest.raises(CheckpointError, match=r"lora is 3 in .*, got 5: leave it out"):
        load_hf(base, adapter=written[0], lora=5)
    with pytest.raises(CheckpointError, match="no adapters"):
        save_adapter(tmp_path / "none", load_hf(base))
    with pytest.raises(CheckpointError, match="already holds an adapter"):
        save_adapter(written[0], written[1])


def test_only_the_adapters_are_written(written):
    folder, model = written
    tensors = load_file(folder / TENSORS)
    assert sum(x.size for x in tensors.values()) == sum(
        x.size for x in jax.tree.leaves(split(nnx.state(model, nnx.Param))[0])
    )
    assert tensors[PREFIX + "model.layers.1.self_attn.q_proj.lora_A.weight"].shape == (3, RAW["hidden_size"])
