"""The device side of sampling: prefill, the decode loop, and appending given tokens; pure functions to be jitted."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from entjax.decoding import DecodeContext
from entjax.models import Cache, Decoder
from entjax.models.cache import narrow, put_back
from entjax.sampler import policy
from entjax.sampler.state import DecodeState, Prefix, Program
from entjax.transform import Transform, chain


def prefill(model: Decoder, tokens: Int[Array, "P T"], length: Int[Array, " P"], cache: Cache) -> Prefix:
    """Compute the keys and values of all prompt tokens but the last, once for all rows that will share them."""
    slots = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None, :]
    positions = jnp.where(slots < length[:, None] - 1, slots, tokens.shape[1])  # past the end: not written
    with jax.named_scope("prefill"):
        _, cache = model(tokens, positions, cache=cache)
    return Prefix(tokens, length, cache)


def decode(model: Decoder, state: DecodeState, steps: Int[Array, ""], window: int) -> DecodeState:
    """At most `steps` more tokens for every running row; stops early when none is left. No row may outgrow `window`."""
    rules = _chain(state.program)

    def goes_on(carry):
        step, state = carry
        return (step < steps) & ~jnp.all(state.done)

    def advance(carry):
        step, state = carry
        return step + 1, _token(model, rules, state, window)

    whole = state.cache
    if not model.config.scan_layers:  # for scanned layers it would be a second cache in memory
        state = state.replace(cache=narrow(whole, window))
    _, state = jax.lax.while_loop(goes_on, advance, (jnp.zeros((), jnp.int32), state))
    return state.replace(cache=put_back(whole, state.cache))


def peek(model: Decoder, state: DecodeState, window: int) -> Float[Array, "R V"]:
    """Log-probs of the full policy for the next token of every row; the state does not change."""
    logits, _ = _logits(model, state, jnp.ones_like(state.done), window)
    return jax.nn.log_softmax(logits, axis=-1)


def append(
    model: Decoder, state: DecodeState, tokens: Int[Array, "R K"], count: Int[Array, " R"], new, window: int
):
    """Write the first `count` of the given tokens behind each row, unsampled, and let it sample `new` more.

    Rows with count 0 stay as they are.
    """
    slots = state.tokens.shape[1]
    ahead = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None, :]
    last = _last(state.tokens, state.length)
    inputs = jnp.concatenate([last[:, None], tokens[:, :-1]], axis=1)
    given = ahead < count[:, None]
    at = state.length[:, None] + ahead
    with jax.named_scope("append"):
        _, cache = model(inputs, jnp.where(given, at - 1, slots), cache=state.cache, window=window)
    length = state.length + count
    write = jax.vmap(lambda row, index, value: row.at[index].set(value, mode="drop"))
    limit = jnp.where(count > 0, jnp.minimum(length + new, slots), state.limit)
    return state.replace(
        tokens=write(state.tokens, jnp.where(given, at, slots), tokens),
        length=length,
        limit=limit,
        done=jnp.where(count > 0, limit <= length, state.done),
        finished=state.finished & (count == 0),
        cache=cache,
    )


def _token(model: Decoder, rules: Transform | None, state: DecodeState, window: int) -> DecodeState:
    """One step of the loop: feed the last token of every running row, draw the next, write it down."""
    running = ~state.done
    logits, cache = _logits(model, state, running, window)
    with jax.named_scope("sample"):
        whole = sampled = policy.Distribution.of(logits)
        here = jax.vmap(jax.random.fold_in)(state.key, state.length)
        rule_state = state.rules
        if rules is not None:
            index = state.length - state.prompt_length
            context = DecodeContext(
                state.length, index, whole.entropy, whole.log_probs, state.temperature, _fold(here, 1)
            )
            logits, rule_state = rules.update(logits, state.rules, context)
            rule_state = _where(running, rule_state, state.rules)
            sampled = policy.Distribution.of(logits)
        token = policy.draw(_fold(here, 0), sampled.mass)
        drawn = (whole.log_prob(token), whole.entropy, sampled.log_prob(token), sampled.entropy)
    return _write(state.replace(cache=cache, rules=rule_state), running, token, drawn)


def _write(state: DecodeState, running, token, drawn) -> DecodeState:
    """Put the drawn token and its statistics at index `length` of the running rows, and see who is done."""
    at = jnp.where(running, state.length, state.tokens.shape[1])
    put = jax.vmap(lambda row, index, value: row.at[index].set(value, mode="drop"))
    logp, entropy, sampled_logp, sampled_entropy = drawn
    length = state.length + running.astype(state.length.dtype)
    stopped = running & jnp.any(token[:, None] == state.stop[None, :], axis=-1)
    return state.replace(
        tokens=put(state.tokens, at, token),
        mask=put(state.mask, at, running),
        logp=put(state.logp, at, logp),
        entropy=put(state.entropy, at, entropy),
        sampled_logp=put(state.sampled_logp, at, sampled_logp),
        sampled_entropy=put(state.sampled_entropy, at, sampled_entropy),
        length=length,
        done=state.done | stopped | (length >= state.limit),
        finished=state.finished | stopped,
    )


def _logits(model: Decoder, state: DecodeState, running, window: int) -> tuple[Array, Cache]:
    """The policy's logits [R, V] for the next token, and the cache with the last token of the running rows in it."""
    last = _last(state.tokens, state.length)
    # A position past the slots is not written, so a row that is done leaves its cache alone.
    positions = jnp.where(running, state.length - 1, state.tokens.shape[1])
    hidden, cache = model(last[:, None], positions[:, None], cache=state.cache, window=window)
    with jax.named_scope("head"):
        return policy.next_logits(hidden[:, 0], model.head(), state.temperature), cache


def _where(rows, new, old):
    """The new per-row leaves for `rows`, the old ones elsewhere, so that a row that is done keeps the state it ended with."""
    choose = lambda a, b: jnp.where(rows.reshape(-1, *[1] * (a.ndim - 1)), a, b) if a.ndim else a
    return jax.tree.map(choose, new, old)


def _last(tokens: Int[Array, "R S"], length: Int[Array, " R"]) -> Int[Array, " R"]:
    return jnp.take_along_axis(tokens, length[:, None] - 1, axis=1)[:, 0]


def _fold(key: Array, salt: int) -> Array:
    return jax.vmap(lambda k: jax.random.fold_in(k, salt))(key)


def _chain(program: Program) -> Transform | None:
    """The decoding rules as one transform again; their states were made outside, where their values are not constants."""
    return (
        chain(*(Transform(name, lambda payload: (), update) for name, update in program)) if program else None
    )
