"""The sizes of public checkpoints, from their config.json: for plans and compilations without the checkpoint at hand."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from entjax.models.config import DecoderConfig, Rope, Sliding
from entjax.models.hf import load_config
from entjax.models.peft import with_rank

_QWEN25 = {"qkv_bias": True, "head_dim": 128, "norm_eps": 1e-6, "context": 4096, "rope": Rope(theta=10_000.0)}
_QWEN3 = {
    "qk_norm": True,
    "head_dim": 128,
    "norm_eps": 1e-6,
    "context": 40_960,
    "rope": Rope(theta=1_000_000.0),
}
_LLAMA31 = Rope("llama3", 500_000.0, 8.0, original_context=8192, low_freq_factor=1.0, high_freq_factor=4.0)
_GEMMA3 = {"vocab": 262_144, "heads": 4, "kv_heads": 1, "head_dim": 256, "qk_norm": True, "gemma": True, "tied": True,
           "norm_eps": 1e-6, "context": 32_768, "rope": Rope(theta=1_000_000.0)}  # fmt: skip


def _five_to_one(layers: int) -> Sliding:
    """Five layers with a window of 512 tokens before each that looks at everything."""
    return Sliding(512, tuple((layer + 1) % 6 != 0 for layer in range(layers)), Rope(theta=10_000.0))


KNOWN: Mapping[str, DecoderConfig] = MappingProxyType({
    "Qwen2.5-Math-1.5B": DecoderConfig(
        vocab=151_936, width=1536, layers=28, heads=12, kv_heads=2, mlp=8960, tied=True, **_QWEN25
    ),
    "Qwen2.5-Math-7B": DecoderConfig(vocab=152_064, width=3584, layers=28, heads=28, kv_heads=4, mlp=18_944, **_QWEN25),
    "Qwen3-4B": DecoderConfig(vocab=151_936, width=2560, layers=36, heads=32, kv_heads=8, mlp=9728, tied=True, **_QWEN3),
    "Qwen3-8B": DecoderConfig(vocab=151_936, width=4096, layers=36, heads=32, kv_heads=8, mlp=12_288, **_QWEN3),
    "Llama-3.1-8B": DecoderConfig(
        vocab=128_256, width=4096, layers=32, heads=32, kv_heads=8, head_dim=128, mlp=14_336, rope=_LLAMA31, norm_eps=1e-5,
        context=131_072,
    ),
    "gemma-3-270m": DecoderConfig(width=640, layers=18, mlp=2048, sliding=_five_to_one(18), **_GEMMA3),
    "gemma-3-1b": DecoderConfig(width=1152, layers=26, mlp=6912, sliding=_five_to_one(26), **_GEMMA3),
})  # fmt: skip


def architecture(model: DecoderConfig | str, *, adapter: str | None = None, **changes: Any) -> DecoderConfig:
    """The sizes of a config's `model`: given, read from the checkpoint's folder, or known by the folder's name."""
    if isinstance(model, DecoderConfig):
        return model.replace(**changes)
    if Path(model).is_dir():
        return load_config(model, adapter=adapter, **changes)
    name = Path(model).name
    for known, config in KNOWN.items():
        if name.lower() in (known.lower(), f"{known}-instruct".lower(), f"{known}-it".lower()):
            return config.replace(**with_rank(adapter, changes))
    raise ValueError(
        f"There is no folder {model}, and entjax does not know the sizes of '{name}': download the checkpoint (config.json is "
        f"enough), or name one of {', '.join(KNOWN)}."
    )
