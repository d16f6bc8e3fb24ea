"""GGUF files (Llama architecture, any quantisation that the `gguf` package reads) to Hugging Face folders in float32.

The writers of these files store the rows of a head's query and key matrices as pairs (x_j, x_{j+d/2}) next to each other; Hugging
Face keeps the halves apart. Undoing that, and one table of names, is all there is beside the dequantisation.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from entjax.models.files import CheckpointError, write_shards
from entjax.models.gguf_tokenizer import write_tokenizer

SHARD_BYTES = 4 * 2**30
OUTER = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def convert_gguf(path: str | Path, folder: str | Path) -> Path:
    """Writes config.json, safetensors (float32), tokenizer and chat template of the GGUF file `path` into `folder`."""
    path, folder = Path(path), Path(folder)
    if folder.exists() and any(folder.iterdir()):
        raise CheckpointError(f"{folder} is not empty; choose another folder or remove it first.")
    reader = _open(path)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    found = {_name(tensor.name, path): tensor for tensor in reader.tensors}
    config = _config(fields, tied="lm_head.weight" not in found, path=path)
    shapes = {name: tuple(int(n) for n in reversed(tensor.shape)) for name, tensor in found.items()}
    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer(fields, folder)
    write_shards(folder, shapes, lambda name: _values(found[name], name, config), 4, SHARD_BYTES)
    generation = {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    _write_json(folder / "generation_config.json", generation)
    # Last, so that a folder that was cut short is not taken for a checkpoint.
    _write_json(folder / "config.json", config)
    return folder


def _open(path: Path) -> Any:
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise ImportError("GGUF files need the gguf package: pip install 'entjax[gguf]'.") from error
    if not path.is_file():
        raise CheckpointError(f"There is no file {path}; `entjax fetch smollm2` prints the path of one.")
    try:
        return GGUFReader(path)
    except (ValueError, IndexError, OverflowError) as error:
        raise CheckpointError(f"{path} is not a whole GGUF file ({error}); copy it again.") from error


def _name(stored: str, path: Path) -> str:
    """blk.3.attn_q.weight -> model.layers.3.self_attn.q_proj.weight."""
    if stored in OUTER:
        return OUTER[stored]
    block, number, kind, *rest = [*stored.split("."), "", "", ""][:4]
    if block == "blk" and number.isdigit() and kind in LAYER and rest[0] in ("weight", "bias"):
        return f"model.layers.{number}.{LAYER[kind]}.{rest[0]}"
    raise CheckpointError(
        f"{path} holds the tensor {stored!r}, which a plain Llama decoder has not; entjax converts those only."
    )


def _config(fields: Mapping[str, Any], *, tied: bool, path: Path) -> dict[str, Any]:
    """A config.json from the metadata of the file."""
    kind = fields.get("general.architecture")
    if kind != "llama":
        raise CheckpointError(f"{path} holds the architecture {kind!r}; entjax converts 'llama' only.")

    def get(name: str, default: Any = None) -> Any:
        value = fields.get(f"llama.{name}", default)
        if value is None:
            raise CheckpointError(f"{path} does not say llama.{name}; the file is incomplete.")
        return value

    if fields.get("llama.rope.scaling.type", "none") != "none":
        raise CheckpointError(f"{path} scales its rotary positions, which entjax does not convert.")
    heads, width = get("attention.head_count"), get("embedding_length")
    head_dim = get("attention.key_length", width // heads)
    if get("rope.dimension_count", head_dim) != head_dim:
        raise CheckpointError(f"{path} turns only a part of each head; entjax turns whole heads.")
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": len(fields["tokenizer.ggml.tokens"]),
        "hidden_size": width,
        "intermediate_size": get("feed_forward_length"),
        "num_hidden_layers": get("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": get("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": get("context_length"),
        "rms_norm_eps": get("attention.layer_norm_rms_epsilon"),
        "rope_theta": get("rope.freq_base", 10_000.0),
        "rope_scaling": None,
        "tie_word_embeddings": tied,
        "attention_bias": False,
        "mlp_bias": False,
        "attention_dropout": 0.0,
        "use_cache": True,
        "torch_dtype": "float32",
        **{f"{name}_token_id": fields.get(f"tokenizer.ggml.{long}_token_id")
           for name, long in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"))},
    }  # fmt: skip


def _values(tensor: Any, name: str, config: Mapping[str, Any]) -> np.ndarray:
    """The tensor in float32, as Hugging Face orders its rows."""
    from gguf.quants import dequantize

    values = np.asarray(dequantize(tensor.data, tensor.tensor_type), np.float32)
    if "q_proj" in name:
        return halves(values, config["num_attention_heads"])
    if "k_proj" in name:
        return halves(values, config["num_key_value_heads"])
    return values


def halves(rows: np.ndarray, heads: int) -> np.ndarray:
    """Rows of each head from pairs (0, d/2, 1, d/2 + 1, ...) to halves (0, 1, ..., d - 1)."""
    pairs = rows.reshape(heads, -1, 2, *rows.shape[1:])
    return pairs.swapaxes(1, 2).reshape(rows.shape)


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
