"""config.json of a Hugging Face checkpoint to a DecoderConfig and back, or a refusal that says why."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from entjax.models.config import ROPE_KINDS, DecoderConfig, Rope, Sliding
from entjax.models.files import CheckpointError

FAMILIES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
}
GELU = "gelu_pytorch_tanh"
LAYER_KINDS = ("full_attention", "sliding_attention")
ROPE_FIELDS = {
    "factor": "factor",
    "original_max_position_embeddings": "original_context",
    "low_freq_factor": "low_freq_factor",
    "high_freq_factor": "high_freq_factor",
    "beta_fast": "beta_fast",
    "beta_slow": "beta_slow",
    "attention_factor": "attention_factor",
    "mscale": "mscale",
    "mscale_all_dim": "mscale_all_dim",
    "truncate": "truncate",
}
ROPE_USES = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "llama3": ("factor", "original_context", "low_freq_factor", "high_freq_factor"),
    "yarn": (
        *("factor", "original_context", "beta_fast", "beta_slow"),
        *("attention_factor", "mscale", "mscale_all_dim", "truncate"),
    ),
}


def config_from_hf(raw: Mapping[str, Any], **changes: Any) -> DecoderConfig:
    """The DecoderConfig of a parsed config.json; `changes` are what no checkpoint knows (dtype, remat, ...)."""
    family = _family(raw)
    gemma = family == "gemma3_text"
    _check_plain(raw, family)
    if gemma:
        _check_gemma(raw)
    width, heads = _whole(raw, "hidden_size"), _whole(raw, "num_attention_heads")
    attention_bias = bool(raw.get("attention_bias")) and family in ("llama", "qwen3", "gemma3_text")
    try:
        fields: dict[str, Any] = {
            "vocab": _whole(raw, "vocab_size"),
            "width": width,
            "layers": _whole(raw, "num_hidden_layers"),
            "heads": heads,
            "kv_heads": raw.get("num_key_value_heads") or heads,
            "head_dim": raw.get("head_dim") or {"qwen3": 128, "gemma3_text": 256}.get(family, width // heads),
            "mlp": _whole(raw, "intermediate_size"),
            "qk_norm": family == "qwen3" or gemma,
            "qkv_bias": family == "qwen2" or attention_bias,
            "out_bias": attention_bias,
            "mlp_bias": bool(raw.get("mlp_bias")) and family == "llama",
            "gemma": gemma,
            "sliding": _sliding(raw, family),
            "tied": bool(raw.get("tie_word_embeddings", gemma)),
            "norm_eps": float(raw.get("rms_norm_eps", 1e-6)),
            "context": _whole(raw, "max_position_embeddings"),
        }
        return DecoderConfig(rope=_rope_from_hf(_of_kind(raw, "full_attention")), **(fields | changes))
    except CheckpointError:
        raise
    except (TypeError, ValueError) as error:
        asked = f", with {', '.join(f'{k}={v!r}' for k, v in changes.items())}" * bool(changes)
        raise CheckpointError(
            f"config.json{asked}, describes no decoder that entjax can build: {error}"
        ) from error


def config_to_hf(config: DecoderConfig) -> dict[str, Any]:
    """A config.json that transformers (4 and 5) reads as the same model."""
    family = _family_of(config)
    raw: dict[str, Any] = {
        "architectures": [FAMILIES[family]],
        "model_type": family,
        "vocab_size": config.vocab,
        "hidden_size": config.width,
        "intermediate_size": config.mlp,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": config.context,
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tied,
        "attention_dropout": 0.0,
        "use_cache": True,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    } | _rope_to_hf(config.rope)
    if family in ("llama", "qwen3", "gemma3_text"):
        raw["attention_bias"] = config.qkv_bias
    if family == "llama":
        raw["mlp_bias"] = config.mlp_bias
        return raw
    sliding = config.sliding
    raw["sliding_window"] = sliding and sliding.window
    if family == "mistral":
        return raw
    raw["layer_types"] = [
        LAYER_KINDS[slides] for slides in (sliding.layers if sliding else (False,) * config.layers)
    ]
    if family == "gemma3_text":
        del raw["hidden_act"]
        own = (sliding and sliding.rope) or config.rope
        raw |= {
            "hidden_activation": GELU,
            "query_pre_attn_scalar": config.head_dim,
            "rope_local_base_freq": own.theta,
        }
        raw |= {"attn_logit_softcapping": None, "final_logit_softcapping": None}
    else:
        raw |= {"use_sliding_window": sliding is not None, "max_window_layers": config.layers}
    return raw


def _family(raw: Mapping[str, Any]) -> str:
    family = raw.get("model_type")
    known = f"entjax reads {', '.join(FAMILIES)} (Llama, SmolLM2, Mistral, Qwen2, Qwen2.5, Qwen3 dense, Gemma 3 for text)"
    if family not in FAMILIES:
        raise CheckpointError(f"config.json names model_type {family!r}; {known}.")
    named = raw.get("architectures") or [FAMILIES[family]]
    if list(named) != [FAMILIES[family]]:
        raise CheckpointError(
            f"config.json names the architecture {named}; {known}, with a language-model head."
        )
    return family


def _check_plain(raw: Mapping[str, Any], family: str) -> None:
    """Refuses what would change the numbers: other activations, quantisation, heads that are turned in part."""
    name, known = ("hidden_activation", GELU) if family == "gemma3_text" else ("hidden_act", "silu")
    if raw.get(name, known) != known:
        raise CheckpointError(
            f"config.json asks for the activation {raw[name]!r}; entjax computes {known} in this family."
        )
    if raw.get("quantization_config"):
        raise CheckpointError(
            "config.json describes quantised weights; take the checkpoint that is not quantised."
        )
    if raw.get("partial_rotary_factor") not in (None, 1, 1.0):
        raise CheckpointError(
            f"config.json turns only a part of each head, {raw['partial_rotary_factor']} of it "
            "(partial_rotary_factor); entjax turns whole heads."
        )


def _check_gemma(raw: Mapping[str, Any]) -> None:
    """Refuses what no Gemma 3 for text has and entjax does not compute."""
    for name in ("attn_logit_softcapping", "final_logit_softcapping", "use_bidirectional_attention"):
        if raw.get(name):
            raise CheckpointError(f"config.json sets {name}, which entjax does not compute.")
    scalar, head_dim = raw.get("query_pre_attn_scalar", 256), raw.get("head_dim") or 256
    if scalar != head_dim:
        raise CheckpointError(
            f"config.json divides the scores by the root of query_pre_attn_scalar={scalar}; entjax divides by that of "
            f"head_dim={head_dim}."
        )


def _sliding(raw: Mapping[str, Any], family: str) -> Sliding | None:
    """The layers that look back at no more than a window; None where none does, or the window holds the context."""
    window = raw.get("sliding_window", 4096)  # transformers' default for all families that have one
    if family == "llama" or window is None:
        return None
    _whole({"sliding_window": window}, "sliding_window")
    layers = _windowed(raw, family)
    if family == "gemma3_text":
        local = _of_kind(raw, "sliding_attention")
        return Sliding(window, layers, _rope_from_hf(local)) if any(layers) else None
    return (
        Sliding(window, layers) if any(layers) and window < _whole(raw, "max_position_embeddings") else None
    )


def _windowed(raw: Mapping[str, Any], family: str) -> tuple[bool, ...]:
    """Which layers have a window: as named in layer_types, or by the older rule of the family."""
    count, kinds = _whole(raw, "num_hidden_layers"), raw.get("layer_types")
    if family == "mistral":
        return (True,) * count
    if kinds is None and family == "gemma3_text":
        every = raw.get("sliding_window_pattern") or raw.get("_sliding_window_pattern") or 6
        return tuple((layer + 1) % every != 0 for layer in range(count))
    used = family == "gemma3_text" or bool(raw.get("use_sliding_window"))
    if kinds is None:
        return tuple(used and layer >= raw.get("max_window_layers", 28) for layer in range(count))
    if len(kinds) != count or any(kind not in LAYER_KINDS for kind in kinds):
        raise CheckpointError(
            f"config.json has layer_types {kinds!r:.80}; entjax reads {' or '.join(LAYER_KINDS)} for each of {count} layers."
        )
    if "sliding_attention" in kinds and not used:
        raise CheckpointError(
            "config.json names layers with sliding_attention and says use_sliding_window: false; set one of them right."
        )
    return tuple(kind == "sliding_attention" for kind in kinds)


def _of_kind(raw: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    """`raw` with the rope of this kind of layers alone; Gemma 3 has one for each."""
    if raw.get("model_type") != "gemma3_text":
        return raw
    named = raw.get("rope_parameters") or {}
    if kind in named:
        return {**raw, "rope_scaling": None, "rope_parameters": named[kind]}
    if kind == "full_attention":
        return {**raw, "rope_theta": raw.get("rope_theta") or 1_000_000.0}
    own = {"rope_theta": raw.get("rope_local_base_freq") or 10_000.0}
    return {**raw, **own, "rope_scaling": None, "rope_parameters": None}


def _rope_from_hf(raw: Mapping[str, Any]) -> Rope:
    given = dict(raw.get("rope_scaling") or raw.get("rope_parameters") or {})
    kinds = [given.pop("rope_type", None), given.pop("type", None)]
    kind = next((k for k in kinds if k), "default")
    theta = given.pop("rope_theta", None) or raw.get("rope_theta") or 10_000.0
    if kind not in ROPE_KINDS:
        raise CheckpointError(f"config.json scales rope by {kind!r}; entjax knows {', '.join(ROPE_KINDS)}.")
    if given.pop("partial_rotary_factor", None) not in (None, 1, 1.0):
        raise CheckpointError("config.json turns only a part of each head; entjax turns whole heads.")
    unknown = sorted(name for name, value in given.items() if name not in ROPE_FIELDS and value is not None)
    if unknown:
        raise CheckpointError(
            f"config.json has rope parameters that entjax does not know: {', '.join(unknown)}."
        )
    named = {ROPE_FIELDS[name]: value for name, value in given.items() if value is not None}
    fields = {name: value for name, value in named.items() if name in ROPE_USES[kind]}
    context = _whole(raw, "max_position_embeddings")
    if "original_context" in ROPE_USES[kind]:
        fields["original_context"] = (
            raw.get("original_max_position_embeddings") or fields.get("original_context") or context
        )
    if kind == "yarn" and "factor" not in fields:
        fields["factor"] = context / fields["original_context"]
    if kind in ("linear", "llama3") and "factor" not in fields:
        raise CheckpointError(f"config.json scales rope by {kind!r} without saying by which factor.")
    return Rope(kind=kind, theta=float(theta), **fields)


def _rope_to_hf(rope: Rope) -> dict[str, Any]:
    """The two keys that every version reads; a scaling of None is the plain rope."""
    if rope.kind == "default":
        return {"rope_theta": rope.theta, "rope_scaling": None}
    values = dataclasses.asdict(rope)
    used = {hf: values[ours] for hf, ours in ROPE_FIELDS.items() if ours in ROPE_USES[rope.kind]}
    scaling = {"rope_type": rope.kind} | {name: value for name, value in used.items() if value is not None}
    return {"rope_theta": rope.theta, "rope_scaling": scaling}


def _family_of(config: DecoderConfig) -> str:
    """The family whose code computes exactly this decoder."""
    sliding, same_bias = config.sliding, config.qkv_bias == config.out_bias
    local = config.rope if sliding is None or sliding.rope is None else sliding.rope
    if config.gemma:
        if (
            config.qk_norm
            and same_bias
            and not config.mlp_bias
            and (sliding is None or local.kind == "default")
        ):
            return "gemma3_text"
    elif local == config.rope:
        if config.qk_norm and same_bias and not config.mlp_bias:
            return "qwen3"
        if not config.qk_norm and config.qkv_bias and not config.out_bias and not config.mlp_bias:
            return "qwen2"
        if not config.qk_norm and same_bias and config.width % config.heads == 0 and sliding is None:
            return "llama"
        plain = not (config.qk_norm or config.qkv_bias or config.out_bias or config.mlp_bias)
        if plain and (sliding is None or all(sliding.layers)):
            return "mistral"  # Llama in all but its check that the heads divide the width
    raise CheckpointError(
        "No Hugging Face family has this combination: "
        f"qk_norm={config.qk_norm}, qkv_bias={config.qkv_bias}, out_bias={config.out_bias}, "
        f"mlp_bias={config.mlp_bias}, width={config.width}, heads={config.heads}, gemma={config.gemma}, sliding={sliding}."
    )


def _whole(raw: Mapping[str, Any], name: str) -> int:
    value = raw.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise CheckpointError(
            f"config.json should give {name} as a positive whole number and gives {value!r}."
        )
    return value
