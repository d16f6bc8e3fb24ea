"""Attention entropy of a token: how diffusely one middle layer looks at its context ("Not All Tokens Learn Alike").

    H_t = -sum_j a_tj log a_tj / log(context length) in [0, 1],     a = attention averaged over the heads of the layer

Anchors are the 20% of the batch's tokens with the most focused attention, explorers the 20% with the most diffuse one.
`weights.attention_entropy` turns H into weights.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from entjax import masked, vocab


def raw(attention: Float[Array, "... K"]) -> Float[Array, ...]:
    """-sum a log a over the keys, 0 log 0 = 0."""
    attention = masked.wide(attention)
    seen = attention > 0
    return -jnp.sum(jnp.where(seen, attention * jnp.log(jnp.where(seen, attention, 1)), 0), axis=-1)


def normalized(attention: Float[Array, "... K"], context_length: Array) -> Float[Array, ...]:
    """`raw` over the entropy of uniform attention. `context_length` counts the visible keys."""
    return over_uniform(raw(attention), context_length)


def over_uniform(entropy: Array, context_length: Array) -> Float[Array, ...]:
    """Entropy in nats over that of uniform attention, log(context length); 0 for a context of one key."""
    most = jnp.log(jnp.maximum(context_length, 1).astype(entropy.dtype))
    most = jnp.broadcast_to(most, entropy.shape)
    return jnp.where(most > 0, jnp.minimum(entropy / jnp.where(most > 0, most, 1), 1), 0)


def of_model(model, tokens: Int[Array, "B T"], layer: int | None = None) -> Float[Array, "B T"]:
    """Normalised attention entropy of the position that predicts tokens[:, t], at index t: what
    `rollout.extra["attention_entropy"]` should hold. `model` is an entjax decoder, `layer` its middle one by default.
    """
    layer = model.config.layers // 2 if layer is None else layer
    _, entropy = model(tokens, attention_layer=layer)
    visible = jnp.arange(tokens.shape[1], dtype=jnp.int32)  # token t is predicted from the t tokens before it
    return over_uniform(vocab.before(entropy[..., None])[..., 0], visible[None])


def anchors(entropy: Array, mask: Array, fraction: float = 0.2) -> Bool[Array, "B T"]:
    """The round(fraction n) lowest attention entropies among the n valid tokens."""
    return masked.lowest(entropy, mask, _share(mask, fraction, entropy.dtype))


def explorers(entropy: Array, mask: Array, fraction: float = 0.2) -> Bool[Array, "B T"]:
    """The round(fraction n) highest attention entropies among the n valid tokens."""
    return masked.highest(entropy, mask, _share(mask, fraction, entropy.dtype))


def _share(mask: Array, fraction: float, dtype) -> Array:
    return jnp.round(fraction * masked.count(mask, dtype=dtype)).astype(jnp.int32)
