"""The decoder: tokens in, hidden states out; functions over the weights of a layer, held by one module.

h_0 = E[tokens];  h' = h + O attention(norm(h));  h = h' + down(silu(gate(norm(h'))) * up(norm(h')));
out = norm(h_L).    Gemma: h_0 = sqrt(D) E[tokens], gelu, and norm(O attention(...)), norm(down(...)).
Logits are made elsewhere, chunk by chunk, as `hidden @ model.head()`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from entjax.models.attention import Memory, Place, along_last, attention, entropy_of_attention, rms_norm
from entjax.models.cache import Cache, known_of, slots_of
from entjax.models.config import DecoderConfig, Rope, check_length, wide
from entjax.models.lora import product
from entjax.models.rope import cos_sin
from entjax.models.shared import SharedPlace, causal, shared_place
from entjax.models.weights import initial_weights, unstack

Constrain = Callable[[jax.Array, tuple[str, ...]], jax.Array]
HIDDEN_AXES = ("batch", "sequence", "embed")

# Up to this many tokens a one-hot matmul is the faster look-up where there is a gradient: a matmul as well, and no scatter.
SMALL_VOCAB = 512


class Decoder(nnx.Module):
    """A decoder whose only state is its weights: `graphdef, params = nnx.split(model)`.

    `constrain(array, logical axes) -> array` pins the layout of the hidden states on a mesh; None leaves it
    to XLA.
    """

    embedding: nnx.Param
    norm: nnx.Param
    unembedding: nnx.Param  # absent when tied

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs, constrain: Constrain | None = None) -> None:
        self.config = config
        self.constrain = constrain
        outer, layers = initial_weights(config, rngs.params())
        for name, value in outer.items():
            setattr(self, name, nnx.Param(value))
        if config.scan_layers:
            self.layers = nnx.Dict(jax.tree.map(nnx.Param, layers))
        else:
            self.layers = nnx.List([nnx.Dict(jax.tree.map(nnx.Param, one)) for one in unstack(layers)])

    def head(self) -> jax.Array:
        """The output projection [D, V]: the transposed embedding when tied."""
        return self.embedding[...].T if self.config.tied else self.unembedding[...]

    def __call__(
        self,
        tokens: jax.Array,
        positions: jax.Array | None = None,
        *,
        segments: jax.Array | None = None,
        cache: Cache | None = None,
        window: int | None = None,
        attention_layer: int | None = None,
    ) -> Any:
        """Hidden states [B, T, D] after the final norm, in the compute type, for tokens at positions [B, T].

        Without a cache token t looks at the tokens up to t of its row, or of its segment [B, T] if packed.
        With a cache the new keys go to the slots of `positions` (cache.slots_of), a query looks at those up to
        its own, and (hidden, cache) is returned; positions outside the cache are not written. `window`
        promises that all slots written are below it, and no slot beyond is read. `attention_layer=l` appends the
        entropy [B, T] of layer l's attention, averaged over its heads first.
        """
        config = self.config
        _check_call(config, segments, cache, window, attention_layer)
        if cache is None and segments is None:
            check_length(config, tokens.shape[1])
        if positions is None:
            positions = jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32)[None], tokens.shape)
        slots = positions if cache is None else slots_of(cache, positions)
        places = tuple(
            Place(slots, *cos_sin(rope, config.head_dim, positions), _mask(slots, segments, cache, window, back),
                  _of_prompt(positions, cache, back))
            for rope, back in _kinds(config)
        )  # fmt: skip
        x = look_up(self.embedding[...], tokens, config, trained=cache is None)
        run = _scanned if config.scan_layers else _unrolled
        weights = nnx.to_pure_dict(nnx.state(self.layers))
        body = _layer(config, places, window, self.constrain)
        x, cache, entropy = run(body, weights, x, cache, attention_layer)
        out = (rms_norm(x, self.norm[...], config),)
        out += () if cache is None else (cache,)
        out += () if attention_layer is None else (entropy,)
        return out[0] if len(out) == 1 else out

    def families(
        self,
        prompts: jax.Array,
        prompt_length: jax.Array,
        tokens: jax.Array,
        positions: jax.Array,
        segments: jax.Array,
    ) -> jax.Array:
        """Hidden states [P, K, L, D] of completions [P, K, L] that share the prompt [P, W] of their family.

        Prompts are right-padded and stand at the positions from 0 on; a completion, told apart by its segment, sees the
        first `prompt_length` [P] tokens of the prompt and its own earlier ones. The same numbers as prompt and
        completion in one row each, with the prompt computed once.
        """
        count, width = prompts.shape
        first = jnp.broadcast_to(jnp.arange(width, dtype=jnp.int32)[None], prompts.shape)
        where = jnp.concatenate([first, positions.reshape(count, -1)], axis=1)
        places = tuple(
            shared_place(
                where, cos_sin(rope, self.config.head_dim, where), prompt_length, width, segments, back
            )
            for rope, back in _kinds(self.config)
        )
        together = jnp.concatenate([prompts, tokens.reshape(count, -1)], axis=1)
        x = look_up(self.embedding[...], together, self.config)
        run = _scanned if self.config.scan_layers else _unrolled
        weights = nnx.to_pure_dict(nnx.state(self.layers))
        x, _, _ = run(_layer(self.config, places, None, self.constrain), weights, x, None, None)
        return rms_norm(x[:, width:], self.norm[...], self.config).reshape(*tokens.shape, -1)


def look_up(
    embedding: jax.Array, tokens: jax.Array, config: DecoderConfig, *, trained: bool = True
) -> jax.Array:
    """The rows [B, T, D] of the embedding [V, D], in the compute type."""
    if config.vocab > SMALL_VOCAB or not trained:
        x = jnp.take(embedding, tokens, axis=0).astype(config.dtype)
    else:
        hot = jax.nn.one_hot(tokens, config.vocab, dtype=config.dtype)
        # Full precision, or an accelerator would round the embedding on its way through the matmul.
        x = jnp.matmul(hot, embedding.astype(config.dtype), precision=jax.lax.Precision.HIGHEST)
    return x * jnp.asarray(config.width**0.5, x.dtype) if config.gemma else x


def gated_mlp(weights: dict[str, jax.Array], x: jax.Array, config: DecoderConfig) -> jax.Array:
    """down(silu(gate(x)) * up(x)) for x [B, T, D]; Gemma has gelu in the place of silu."""
    active = jax.nn.gelu if config.gemma else jax.nn.silu  # gelu by its tanh formula

    def apply(name: str, y: jax.Array) -> jax.Array:
        z = product("bti,io->bto", y, weights, name, config)
        return z + along_last(weights[name + "_bias"], z) if config.mlp_bias else z

    return apply("down", active(apply("gate", x)) * apply("up", x))


def _layer(
    config: DecoderConfig,
    places: tuple[Place | SharedPlace, ...],
    window: int | None,
    constrain: Constrain | None,
) -> Callable:
    """One layer as (weights, x, cache, index, entropy wanted) -> (x, cache, entropy of attention or None)."""

    def pin(x: jax.Array) -> jax.Array:
        return x if constrain is None else constrain(x, HIDDEN_AXES)

    def body(weights: dict, x: jax.Array, cache: Cache | None, layer: Any, entropy: bool) -> tuple:
        norm = lambda name, x: rms_norm(x, weights[name], config) if name in weights else x
        place = _place(places, config, layer)
        y = norm("attention_norm", x)
        y, cache, p = attention(weights, y, place, config, Memory(cache, layer, window))
        x = pin(x + norm("attention_post_norm", y))
        y = gated_mlp(weights, norm("mlp_norm", x), config)
        return pin(x + norm("mlp_post_norm", y)), cache, entropy_of_attention(p) if entropy else None

    if config.remat == "none":
        return body
    policy = None if config.remat == "full" else jax.checkpoint_policies.dots_with_no_batch_dims_saveable
    # A scan keeps forward and backward apart by itself; the guard against merging them would only cost.
    static = (4,) if config.scan_layers else (3, 4)
    return jax.checkpoint(body, policy=policy, prevent_cse=not config.scan_layers, static_argnums=static)


def _unrolled(body: Callable, weights: dict, x: jax.Array, cache: Cache | None, wanted: int | None) -> tuple:
    """The layers one after another: fast for small models, and on CPU."""
    entropy = None
    for index in sorted(weights):
        x, cache, found = body(weights[index], x, cache, index, index == wanted)
        entropy = entropy if found is None else found
    return x, cache, entropy


def _scanned(body: Callable, weights: dict, x: jax.Array, cache: Cache | None, wanted: int | None) -> tuple:
    """The layers as one scan over stacked weights: one compiled layer, whatever their number.

    The cache is carried whole and written in place; as a scanned input and output it would be copied.
    """

    def step(carry: tuple, scanned: tuple) -> tuple:
        x, cache, entropy = carry
        layer_weights, layer = scanned
        x, cache, found = body(layer_weights, x, cache, layer, wanted is not None)
        if found is not None:
            entropy = jnp.where(layer == wanted, found, entropy)
        return (x, cache, entropy), None

    entropy = None if wanted is None else jnp.zeros(x.shape[:2], wide(x.dtype))
    layers = jnp.arange(len(jax.tree.leaves(weights)[0]), dtype=jnp.int32)
    (x, cache, entropy), _ = jax.lax.scan(step, (x, cache, entropy), (weights, layers))
    return x, cache, entropy


def _kinds(config: DecoderConfig) -> list[tuple[Rope, int | None]]:
    """(rope, how far back they look) of the layers that look at everything, then of those with a sliding window, if any."""
    sliding = config.sliding
    return [(config.rope, None)] + (
        [] if sliding is None else [(sliding.rope or config.rope, sliding.window)]
    )


def _place(places: tuple, config: DecoderConfig, layer: Any) -> Any:
    """The place of a layer's kind; the number of a scanned one is traced."""
    if config.sliding is None:
        return places[0]
    if isinstance(layer, int):
        return places[config.sliding.layers[layer]]
    slides = jnp.asarray(config.sliding.layers)[layer]
    return jax.tree.map(lambda whole, near: jnp.where(slides, near, whole), *places)


def _mask(
    slots: jax.Array, segments: jax.Array | None, cache: Cache | None, window: int | None, back: int | None
) -> jax.Array:
    """[1 or B, T, window or S]: key s is at or before query t and less than `back` before it, and in the same segment."""
    if cache is None:
        mask = causal(slots.shape[1], back)[None]
        return mask if segments is None else mask & (segments[:, :, None] == segments[:, None, :])
    key, query = jnp.arange(window or cache.slots, dtype=slots.dtype)[None, None, :], slots[:, :, None]
    return key <= query if back is None else (key <= query) & (query - key < back)


def _of_prompt(positions: jax.Array, cache: Cache | None, back: int | None) -> jax.Array | None:
    """[B, T or 1, W]: the keys of the shared prompt that a query looks at."""
    if cache is None or cache.prompts is None:
        return None
    key = jnp.arange(cache.prompts.slots, dtype=positions.dtype)[None, None, :]
    there = key < known_of(cache)[:, None, None]
    return there if back is None else there & (positions[:, :, None] - key < back)


def _check_call(
    config: DecoderConfig, segments: Any, cache: Cache | None, window: int | None, attention_layer: int | None
) -> None:
    if cache is not None and segments is not None:
        raise ValueError("A cached row holds one sequence: pass segments or a cache, not both.")
    if window is not None and (cache is None or not 0 < window <= cache.slots):
        slots = "no cache" if cache is None else f"a cache of {cache.slots} slots"
        raise ValueError(f"window is how many slots of the cache are read; got window {window} with {slots}.")
    if attention_layer is not None and not 0 <= attention_layer < config.layers:
        raise ValueError(
            f"attention_layer must be one of the {config.layers} layers from 0; got {attention_layer}."
        )
