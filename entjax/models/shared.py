"""Attention of completions that share a prompt: the prompt's keys are computed once and looked at by all of them.

A family is one prompt of `width` places followed by K bins of L places. A bin holds completions one after another, told apart
by their segment. A place looks at the whole prompt of its family, and at its own segment up to itself:

    softmax over both = [exp(s_prompt - m), exp(s_own - m)] / z,   m the larger maximum, z the sum of both rows
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from entjax.models.config import wide
from entjax.unit_axes import without_unit_axes


class SharedPlace(NamedTuple):
    """Where the tokens [P, width + K * L] of P families stand and what they may look at; the same for all layers of a kind."""

    positions: Int[Array, "P S"]
    cos: Array  # [P, 1, S, h / 2]
    sin: Array
    first: Bool[Array, "W W"]  # what the prompt's places see of it
    prompt: Bool[Array, "P S W"]  # what the others see of it: places that hold a token; S is 1 or K * L
    own: Bool[Array, "P K L L"]  # and of their bin: same segment and not later


def causal(length: int, back: int | None) -> Bool[Array, "T T"]:
    """Key s is not later than query t, nor `back` or more before it."""
    square = jnp.ones((length, length), bool)
    return jnp.tril(square) if back is None else jnp.tril(square) & jnp.triu(square, 1 - back)


def shared_place(
    positions, turned: tuple[Array, Array], prompt_length: Int[Array, " P"], width: int, segments: Int[Array, "P K L"],
    back: int | None,
):  # fmt: skip
    """The place of families whose prompt has `prompt_length` tokens before the ones that completions begin with; a token looks
    back at `back` tokens, or at all."""
    own = causal(segments.shape[2], back)[None, None] & (segments[..., :, None] == segments[..., None, :])
    slot = jnp.arange(width, dtype=jnp.int32)[None, None]
    prompt = slot < prompt_length[:, None, None]
    if back is not None:
        prompt = prompt & (positions[:, width:, None] - slot < back)
    return SharedPlace(positions, *turned, causal(width, back), prompt, own)


def mix(q: Array, k: Array, v: Array, place: SharedPlace) -> Array:
    """What the places see [P, H, S, h], for q [P, H, S, h] and k, v [P, Hkv, S, h]; G query heads share a key head."""
    families, bins, length, _ = place.own.shape
    heads, head_dim, groups = k.shape[1], q.shape[3], q.shape[1] // k.shape[1]
    width = place.first.shape[0]
    grouped = q.reshape(families, heads, groups, -1, head_dim)
    first, rest = grouped[..., :width, :], grouped[..., width:, :]
    binned = (families, heads, bins, length, head_dim)
    kp, vp, ko, vo = (
        k[:, :, :width],
        v[:, :, :width],
        k[:, :, width:].reshape(binned),
        v[:, :, width:].reshape(binned),
    )

    seen = _scores("pngth,pnsh->pngts", first, kp, place.first[None, None, None])
    seen = without_unit_axes(jax.nn.softmax, seen)
    prompt = jnp.einsum("pngts,pnsh->pngth", seen.astype(q.dtype), vp)

    to_prompt = _scores("pngth,pnsh->pngts", rest, kp, place.prompt[:, None, None])
    rest = rest.reshape(families, heads, groups, bins, length, head_dim)
    to_own = _scores("pngklh,pnkmh->pngklm", rest, ko, place.own[:, None, None])
    to_prompt = to_prompt.reshape(*to_own.shape[:-1], width)
    top = jnp.maximum(to_prompt.max(-1, keepdims=True), to_own.max(-1, keepdims=True))
    top = jax.lax.stop_gradient(top)
    to_prompt, to_own = jnp.exp(to_prompt - top), jnp.exp(to_own - top)
    total = to_prompt.sum(-1, keepdims=True) + to_own.sum(-1, keepdims=True)
    flat = to_prompt.reshape(families, heads, groups, bins * length, width).astype(q.dtype)
    mixed = jnp.einsum("pngts,pnsh->pngth", flat, vp).reshape(rest.shape)
    mixed = mixed + jnp.einsum("pngklm,pnkmh->pngklh", to_own.astype(q.dtype), vo)
    mixed = without_unit_axes(jnp.divide, mixed, total.astype(mixed.dtype))
    mixed = mixed.reshape(families, heads, groups, bins * length, head_dim)
    return jnp.concatenate([prompt, mixed], axis=3).reshape(q.shape)


def mix_behind(
    q: Array, own: tuple[Array, Array], mask: Array, prompts: tuple[Array, Array], seen: Bool[Array, "B T W"]
) -> tuple[Array, Array]:
    """(softmax over the slots of prompt and row, what q sees) in a step of decoding.

    q is [B, H, T, h]; `own` holds keys and values [B, Hkv, S, h], of which a query sees `mask` [B, T, S]; `prompts` those
    [P, Hkv, W, h] of P prompts, of which it sees `seen`. The rows of a prompt stand next to each other; their queries
    are one product with its keys.
    """
    (k, v), (kp, vp), (rows, _, length, head_dim) = own, prompts, q.shape
    count, heads, width, _ = kp.shape
    grouped = q.reshape(rows, heads, -1, length, head_dim)
    of_prompt, queries = rows // count, grouped.shape[2] * length

    def together(x: Array) -> Array:
        """[B, Hkv, G, T, c] as [P, Hkv, queries of all its rows, c]."""
        by_prompt = x.reshape(count, of_prompt, heads, queries, -1)
        return by_prompt.swapaxes(1, 2).reshape(count, heads, of_prompt * queries, -1)

    def apart(x: Array) -> Array:
        """And back."""
        by_prompt = x.reshape(count, heads, of_prompt, queries, -1)
        return by_prompt.swapaxes(1, 2).reshape(*grouped.shape[:4], -1)

    to_prompt = apart(_scores("pkmh,pksh->pkms", together(grouped), kp))
    to_prompt = _only(seen[:, None, None], to_prompt)
    to_own = _scores("bkgth,bksh->bkgts", grouped, k, mask[:, None, None])
    p = without_unit_axes(jax.nn.softmax, jnp.concatenate([to_prompt, to_own], axis=-1))
    first, rest = p[..., :width].astype(q.dtype), p[..., width:].astype(q.dtype)
    mixed = apart(jnp.einsum("pkms,pksh->pkmh", together(first), vp))
    return p, (mixed + jnp.einsum("bkgts,bksh->bkgth", rest, v)).reshape(q.shape)


def _scores(subscripts: str, q: Array, k: Array, mask: Array | None = None) -> Array:
    scores = jnp.einsum(subscripts, q, k, preferred_element_type=wide(q.dtype)) * q.shape[-1] ** -0.5
    return scores if mask is None else _only(mask, scores)


def _only(mask: Array, scores: Array) -> Array:
    return jnp.where(mask, scores, jnp.finfo(scores.dtype).min)
