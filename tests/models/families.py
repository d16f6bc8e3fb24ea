"""Small checkpoints of every supported family, the same to the bit on every machine."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

SIZES = {
    "vocab_size": 37,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 100.0,
    "hidden_act": "silu",
}


def _raw(family, architecture, **changes):
    return SIZES | {"model_type": family, "architectures": [architecture]} | changes


def _llama(**changes):
    return _raw("llama", "LlamaForCausalLM", **changes)


def _qwen2(**changes):
    return _raw("qwen2", "Qwen2ForCausalLM", use_sliding_window=False, **changes)


def _qwen3(**changes):
    return _raw("qwen3", "Qwen3ForCausalLM", use_sliding_window=False, **changes)


LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 20,
}
YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
YARN_ALL = YARN | {
    "mscale": 0.7,
    "mscale_all_dim": 0.4,
    "beta_fast": 2.0,
    "beta_slow": 0.5,
    "truncate": False,
}


def _gemma3(**changes):
    """Two of three layers with a window of 6 tokens and a rope of their own."""
    pattern = ["sliding_attention", "full_attention", "sliding_attention"]
    own = {
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": 12,
        "rope_local_base_freq": 30.0,
    }
    own |= {"layer_types": pattern, "sliding_window": 6, "head_dim": 12, "final_logit_softcapping": None}
    return _raw("gemma3_text", "Gemma3ForCausalLM", **(own | changes))


FAMILIES = {
    "llama": _llama(tie_word_embeddings=False),
    "smollm2": _llama(tie_word_embeddings=True, num_attention_heads=4, num_key_value_heads=1),
    "llama_biases": _llama(attention_bias=True, mlp_bias=True, head_dim=12),
    "llama31": _llama(rope_scaling=LLAMA3, tie_word_embeddings=True),
    "llama_linear": _llama(rope_scaling={"rope_type": "linear", "factor": 3.0}),
    "llama_dynamic": _llama(rope_scaling={"type": "dynamic", "factor": 2.0}),
    "qwen2": _qwen2(tie_word_embeddings=True),
    "qwen2_yarn": _qwen2(tie_word_embeddings=False, rope_scaling=YARN),
    "qwen3": _qwen3(head_dim=12, tie_word_embeddings=True),
    "qwen3_biases": _qwen3(head_dim=10, attention_bias=True, tie_word_embeddings=False),
    "qwen3_yarn": _qwen3(head_dim=16, tie_word_embeddings=False, rope_scaling=YARN_ALL),
    "mistral": _raw(
        "mistral", "MistralForCausalLM", sliding_window=None, head_dim=6, tie_word_embeddings=False
    ),
    "mistral_sliding": _raw("mistral", "MistralForCausalLM", sliding_window=7, tie_word_embeddings=False),
    "qwen2_sliding": _qwen2(tie_word_embeddings=True)
    | {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1},
    "gemma3": _gemma3(tie_word_embeddings=True),
    "gemma3_scaled": _gemma3(
        num_key_value_heads=1, attention_bias=True, rope_scaling={"rope_type": "linear", "factor": 3.0}
    ),
}


def shapes_of(raw):
    """Tensor name -> shape, as the families' own code declares them."""
    d, f, v = raw["hidden_size"], raw["intermediate_size"], raw["vocab_size"]
    h = raw.get("head_dim") or d // raw["num_attention_heads"]
    q, k = raw["num_attention_heads"] * h, raw["num_key_value_heads"] * h
    qwen2, biased = raw["model_type"] == "qwen2", raw.get("attention_bias", False)
    gemma = raw["model_type"] == "gemma3_text"
    shapes = {"model.embed_tokens.weight": (v, d), "model.norm.weight": (d,)}
    if not raw.get("tie_word_embeddings", gemma):
        shapes["lm_head.weight"] = (v, d)
    for layer in range(raw["num_hidden_layers"]):
        one = {"input_layernorm.weight": (d,), "post_attention_layernorm.weight": (d,)}
        for name, rows in (("q", q), ("k", k), ("v", k)):
            one[f"self_attn.{name}_proj.weight"] = (rows, d)
            if qwen2 or biased:
                one[f"self_attn.{name}_proj.bias"] = (rows,)
        one["self_attn.o_proj.weight"] = (d, q)
        if biased:
            one["self_attn.o_proj.bias"] = (d,)
        if gemma:
            one |= {"pre_feedforward_layernorm.weight": (d,), "post_feedforward_layernorm.weight": (d,)}
        if raw["model_type"] in ("qwen3", "gemma3_text"):
            one |= {"self_attn.q_norm.weight": (h,), "self_attn.k_norm.weight": (h,)}
        for name, shape in (("gate", (f, d)), ("up", (f, d)), ("down", (d, f))):
            one[f"mlp.{name}_proj.weight"] = shape
            if raw.get("mlp_bias", False):
                one[f"mlp.{name}_proj.bias"] = shape[:1]
        shapes |= {f"model.layers.{layer}.{name}": shape for name, shape in one.items()}
    return shapes


def noise(count, seed):
    """`count` numbers in [-1, 1) by splitmix64: integer arithmetic, so every machine agrees on every bit."""
    with np.errstate(over="ignore"):
        z = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(
            seed * 7919 + 1
        )
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(11)).astype(np.float64) / 2**52 - 1


def tensors_of(raw):
    """Weights large enough that every part shows in the logits."""
    tensors = {}
    for seed, (name, shape) in enumerate(shapes_of(raw).items()):
        x = noise(int(np.prod(shape)), seed).reshape(shape)
        if name.endswith("norm.weight"):
            x = 0.5 * x if raw["model_type"] == "gemma3_text" else 1 + 0.5 * x
        elif not name.endswith("bias"):
            x = x * (3.0 / shape[-1]) ** 0.5 * (1.5 if "proj" in name else 1.0)
        tensors[name] = x.astype(np.float32)
    return tensors


def write_checkpoint(folder, raw, tensors=None):
    """A Hugging Face folder with config.json and one safetensors file."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(raw))
    save_file(
        tensors_of(raw) if tensors is None else tensors,
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    return folder


def tokens_of(raw, batch=2, length=40, seed=99):
    """Token ids [batch, length]."""
    x = (noise(batch * length, seed) + 1) / 2 * raw["vocab_size"]
    return x.astype(np.int32).reshape(batch, length)
