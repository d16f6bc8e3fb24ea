"""What a decoder is made of: plain, frozen, hashable numbers, checked when they are put together."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax.numpy as jnp

ROPE_KINDS = ("default", "linear", "dynamic", "llama3", "yarn")
MOST_LAYERS = 1000  # a number from a broken file would be counted up to
REMAT_POLICIES = ("none", "full", "dots")


def wide(dtype: Any) -> Any:
    """The type for statistics over values of `dtype`: float32, or float64 under x64."""
    # jnp.promote_types refuses bfloat16 with float32 under strict promotion.
    return jnp.dtype(dtype) if jnp.finfo(dtype).bits >= 32 else jnp.dtype(jnp.float32)


@dataclasses.dataclass(frozen=True)
class Rope:
    """Rotary positions: the kind of scaling and its parameters, by the names that checkpoints use.

    Which fields matter: `linear` factor; `dynamic` none inside the context (see rope.py); `llama3` factor,
    low_freq_factor, high_freq_factor, original_context; `yarn` factor, original_context, beta_fast,
    beta_slow, attention_factor, mscale, mscale_all_dim, truncate.
    """

    kind: str = "default"
    theta: float = 10_000.0
    factor: float = 1.0
    original_context: int | None = None
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True

    def __post_init__(self) -> None:
        if self.kind not in ROPE_KINDS:
            raise ValueError(
                f"Rope scaling {self.kind!r} is not supported; entjax knows {', '.join(ROPE_KINDS)}."
            )
        if not (0 < self.theta < math.inf and 0 < self.factor < math.inf):
            raise ValueError(f"Rope theta and factor must be positive; got {self.theta} and {self.factor}.")
        if self.kind in ("llama3", "yarn") and not self.original_context:
            raise ValueError(
                f"Rope scaling {self.kind!r} needs original_context, the length before the extension."
            )
        if self.kind == "llama3" and self.low_freq_factor >= self.high_freq_factor:
            raise ValueError(
                "Rope scaling 'llama3' needs low_freq_factor below high_freq_factor; "
                f"got {self.low_freq_factor} and {self.high_freq_factor}."
            )


@dataclasses.dataclass(frozen=True)
class Sliding:
    """Layers that look back at no more than `window` tokens, the token itself among them; with a rope of their own, if any."""

    window: int
    layers: tuple[bool, ...]
    rope: Rope | None = None


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """A decoder as Llama, Mistral, Qwen and Gemma have it; it computes in `dtype` and keeps its weights in `param_dtype`.

    `gemma` is what Gemma does otherwise: it also norms what attention and MLP write, its norms multiply by 1 + scale, its
    gates are gelu, and its embeddings are multiplied by sqrt(width).
    """

    vocab: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp: int
    rope: Rope = Rope()
    qk_norm: bool = False
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    gemma: bool = False
    sliding: Sliding | None = None
    tied: bool = False
    norm_eps: float = 1e-6
    context: int = 2048
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32
    scan_layers: bool = False
    remat: str = "none"
    lora: int = 0  # rank of the adapters that are trained in the place of the weights (lora.py); 0: none
    lora_alpha: float = 32.0  # their products count alpha / rank
    int8: bool = False  # the matrices beside the adapters as whole numbers of eight bits (int8.py)

    def __post_init__(self) -> None:
        for name in ("vocab", "width", "layers", "heads", "kv_heads", "head_dim", "mlp", "context"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a positive whole number; got {value!r}.")
        if isinstance(self.lora, bool) or not isinstance(self.lora, int) or self.lora < 0:
            raise ValueError(f"lora is the rank of the adapters, 0 for none; got {self.lora!r}.")
        if not 0 < self.lora_alpha < math.inf:
            raise ValueError(f"lora_alpha must be positive; got {self.lora_alpha!r}.")
        if not isinstance(self.int8, bool) or (self.int8 and not self.lora):
            raise ValueError(
                f"int8={self.int8!r}: True keeps the matrices beside adapters in eight bits; set lora (a rank) as well, or "
                "leave it out."
            )
        if self.layers > MOST_LAYERS:
            raise ValueError(f"layers must be at most {MOST_LAYERS}; got {self.layers}.")
        if self.heads % self.kv_heads:
            raise ValueError(f"heads must be a multiple of kv_heads; got {self.heads} and {self.kv_heads}.")
        if self.head_dim % 2:
            raise ValueError(
                f"head_dim must be even, because rotary positions turn pairs; got {self.head_dim}."
            )
        if self.sliding is not None:
            _check_sliding(self.sliding, self.layers)
        if self.remat not in REMAT_POLICIES:
            raise ValueError(f"remat must be one of {', '.join(REMAT_POLICIES)}; got {self.remat!r}.")
        for name in ("dtype", "param_dtype"):
            dtype = jnp.dtype(getattr(self, name))
            if not jnp.issubdtype(dtype, jnp.floating):
                raise ValueError(f"{name} must be a floating type; got {dtype}.")
            object.__setattr__(self, name, dtype)
        if self.int8 and self.dtype == jnp.float16:
            raise ValueError(
                "int8 products overflow in float16: compute in bfloat16 or float32, or leave int8 out."
            )

    def replace(self, **changes: Any) -> DecoderConfig:
        """The same decoder with some numbers changed, checked again."""
        return dataclasses.replace(self, **changes)


def _check_sliding(sliding: Sliding, layers: int) -> None:
    if sliding.window < 1:
        raise ValueError(f"A sliding window holds at least one token; got {sliding.window}.")
    if len(sliding.layers) != layers:
        raise ValueError(
            f"sliding.layers tells for each of the {layers} layers; got {len(sliding.layers)} entries."
        )
    if sliding.rope is not None and sliding.rope.kind == "dynamic":
        raise ValueError("Layers with a sliding window cannot have rope scaling 'dynamic'.")


def check_length(config: DecoderConfig, length: int) -> None:
    """Refuses what rope.py does not compute: rows beyond the context of a checkpoint with dynamic rope."""
    if config.rope.kind == "dynamic" and length > config.context:
        raise ValueError(
            f"Rows of {length} tokens go beyond the context of {config.context}; with rope scaling 'dynamic' the "
            "frequencies would there depend on the other rows, so shorten the rows or use 'yarn' or 'linear'."
        )
