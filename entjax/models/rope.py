"""Rotary positions: the inverse frequencies of each scaling kind, and the turning of queries and keys."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from entjax.models.config import Rope, wide


def inverse_frequencies(rope: Rope, head_dim: int) -> tuple[np.ndarray, float]:
    """Inverse frequencies [head_dim / 2] in float32, and the factor on cos and sin (1 except for yarn).

    default: w_i = theta^(-2i/h). linear: w_i / factor. llama3, yarn: see below.
    dynamic: such checkpoints change theta only beyond their context, and then by the longest sequence of the
    batch, so that a row would depend on its neighbours; entjax keeps to the context, where it is the default.
    """
    # float32 throughout, as the checkpoints were trained: at position 30,000 the rounding of w_i is visible.
    exponent = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    base = np.float32(1) / np.float32(rope.theta) ** exponent
    if rope.kind == "linear":
        return base / np.float32(rope.factor), 1.0
    if rope.kind == "llama3":
        return _llama3(rope, base), 1.0
    if rope.kind == "yarn":
        return _yarn(rope, base, head_dim), _yarn_attention_factor(rope)
    return base, 1.0


def _llama3(rope: Rope, base: np.ndarray) -> np.ndarray:
    """Long waves are slowed by `factor`, short ones kept, and between them the two are blended.

    With n = original_context * w / 2 pi, the turns within the original context:
    s = clip((n - low) / (high - low), 0, 1), w' = (1 - s) w / factor + s w.
    """
    turns = np.float32(rope.original_context or 0) * base / np.float32(2 * math.pi)
    low, high = np.float32(rope.low_freq_factor), np.float32(rope.high_freq_factor)
    s = np.clip((turns - low) / (high - low), np.float32(0), np.float32(1))
    return (1 - s) * base / np.float32(rope.factor) + s * base


def _yarn(rope: Rope, base: np.ndarray, head_dim: int) -> np.ndarray:
    """Dimensions with more than beta_fast turns in the original context are kept, under beta_slow slowed.

    d(n) = h ln(original_context / (2 pi n)) / (2 ln theta) is the dimension with n turns; the ramp
    r_i = clip((i - d(beta_fast)) / (d(beta_slow) - d(beta_fast)), 0, 1) blends w' = r w / factor + (1 - r) w.
    """
    original = rope.original_context or 0

    def dimension(turns: float) -> float:
        return head_dim * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(rope.theta))

    low, high = dimension(rope.beta_fast), dimension(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    if low == high:
        high += 0.001  # a step instead of a ramp, without dividing by zero
    ramp = (np.arange(head_dim // 2, dtype=np.float32) - np.float32(low)) / np.float32(high - low)
    r = np.clip(ramp, np.float32(0), np.float32(1))
    return r * base / np.float32(rope.factor) + (1 - r) * base


def _yarn_attention_factor(rope: Rope) -> float:
    """cos and sin are multiplied by m(1) = 0.1 ln(factor) + 1, or by m(mscale) / m(mscale_all_dim)."""
    if rope.attention_factor is not None:
        return rope.attention_factor

    def m(scale: float) -> float:
        return 1.0 if rope.factor <= 1 else 0.1 * scale * math.log(rope.factor) + 1.0

    if rope.mscale and rope.mscale_all_dim:
        return m(rope.mscale) / m(rope.mscale_all_dim)
    return m(1.0)


def cos_sin(rope: Rope, head_dim: int, positions: jax.Array) -> tuple[jax.Array, jax.Array]:
    """cos and sin [B, 1, T, head_dim / 2] in float32 of the angles positions [B, T] * w."""
    frequencies, factor = inverse_frequencies(rope, head_dim)
    angles = positions.astype(jnp.float32)[:, None, :, None] * jnp.asarray(frequencies)[None, None, None, :]
    # XLA on a CPU would compute both anew for every head of every layer, inside whatever uses them; the result of a product,
    # here with the identity, it keeps.
    same = jnp.eye(head_dim // 2, dtype=jnp.float32)
    kept = lambda x: jnp.matmul(x * factor, same, precision=jax.lax.Precision.HIGHEST)
    return kept(jnp.cos(angles)), kept(jnp.sin(angles))


def rotate(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """Turns the pairs (x_i, x_{i + h/2}) of x [B, H, T, h] by their angles; computed in at least float32."""
    dtype = wide(x.dtype)
    y = x.astype(dtype)
    cos, sin = cos.astype(dtype), sin.astype(dtype)
    cos, sin = jnp.concatenate([cos, cos], axis=-1), jnp.concatenate([-sin, sin], axis=-1)
    return (y * cos + jnp.roll(y, x.shape[-1] // 2, axis=-1) * sin).astype(x.dtype)
