"""The structs of a running sampler, and the functions that rearrange its rows.

Letters: R rows, S slots (tokens a row can hold), P prompts, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int, Key

from entjax.models import Cache, take_rows
from entjax.models.cache import share, widen

Program = tuple[tuple[str, Callable], ...]  # the names and updates of the decoding rules, in order


@struct.dataclass
class Prefix:
    """Prompts whose keys and values are computed, to be shared by any number of rows."""

    tokens: Int[Array, "P T"]
    length: Int[Array, " P"]
    cache: Cache  # slots [0, length - 1): the last token of a row is always the next input


@struct.dataclass
class DecodeState:
    """Everything about R sequences in progress. Index t of the [R, S] arrays describes tokens[:, t].

    The cache holds the slots [0, length - 1) of a row: the next step feeds token length - 1 and draws token length. Slots
    beyond may hold the remains of an earlier sequence; no query looks at them.
    """

    tokens: Int[Array, "R S"]  # prompt, completion, padding
    mask: Bool[Array, "R S"]  # True on sampled tokens
    logp: Float[Array, "R S"]  # of the full policy, softmax(model logits / temperature); 0 where not sampled
    entropy: Float[Array, "R S"]
    sampled_logp: Float[Array, "R S"]  # of the distribution that the decoding rules left
    sampled_entropy: Float[Array, "R S"]
    prompt_length: Int[Array, " R"]
    length: Int[Array, " R"]
    limit: Int[Array, " R"]  # length at which the row is cut
    done: Bool[Array, " R"]  # nothing more is written
    finished: Bool[Array, " R"]  # done because of a stop token or string, not because of the limit
    key: Key[Array, " R"]
    temperature: Float[Array, " R"]
    cache: Cache
    rules: Any  # state of the decoding rules: leaves of rank 0 are shared, others have the rows first
    stop: Int[Array, " K"]  # token ids that end a row; -1 is filler
    pad: Int[Array, ""]
    program: Program = struct.field(pytree_node=False, default=())


@struct.dataclass
class Request:
    """What R rows shall do: which prompt each of them continues, and how."""

    source: Int[
        Array, " R"
    ]  # row of the Prefix; -1: nothing (filler, or a row that goes on with what it does)
    key: Key[Array, " R"]
    new: Int[Array, " R"]  # tokens to sample at most
    temperature: Float[Array, " R"]
    rules: Any  # initial state of the decoding rules
    stop: Int[Array, " K"]
    pad: Int[Array, ""]
    program: Program = struct.field(pytree_node=False, default=())


@struct.dataclass
class Completions:
    """What was sampled, as NumPy arrays on the host; N sequences, the samples of a prompt next to each other."""

    tokens: np.ndarray  # [N, S] prompt + completion, right-padded; S depends on buckets only
    mask: np.ndarray  # [N, S] bool, True on sampled tokens, the stop token included
    logp: np.ndarray  # [N, S] float, of the full policy
    entropy: np.ndarray
    sampled_logp: np.ndarray  # [N, S] float, of the distribution really sampled from
    sampled_entropy: np.ndarray
    prompt_length: np.ndarray  # [N] int
    length: np.ndarray  # [N] int, prompt + completion
    finished: np.ndarray  # [N] bool, False: cut by the limit
    group: np.ndarray  # [N] int, the prompt's id

    def completion(self, row: int) -> list[int]:
        """The tokens after the prompt of one sequence."""
        return self.tokens[row, self.prompt_length[row] : self.length[row]].tolist()


OUTPUTS = (
    "tokens",
    "mask",
    "logp",
    "entropy",
    "sampled_logp",
    "sampled_entropy",
    "prompt_length",
    "length",
    "finished",
)


def by_row(f: Callable, state: DecodeState, *others: DecodeState) -> DecodeState:
    """Apply `f(leaf, *leaves)` to every array that has the rows first; the cache, the stop ids and shared values stay."""
    shared = {"cache": None, "stop": None, "pad": None}
    rowwise = [s.replace(**shared) for s in (state, *others)]
    new = jax.tree.map(lambda leaf, *more: f(leaf, *more) if jnp.ndim(leaf) else leaf, *rowwise)
    return new.replace(cache=state.cache, stop=state.stop, pad=state.pad)


def fork(state: DecodeState, rows: Int[Array, " N"], key: Key[Array, " N"] | None = None) -> DecodeState:
    """The given rows, in that order: a row named twice becomes two, one that is not named is dropped.

    Without new keys a copy goes on exactly as its parent would.
    """
    new = by_row(lambda leaf: leaf[rows], state).replace(cache=take_rows(state.cache, rows))
    return new if key is None else new.replace(key=key)


def some(prefix: Prefix, prompts: Int[Array, " N"]) -> Prefix:
    """The given prompts of a prefix, in that order."""
    return Prefix(prefix.tokens[prompts], prefix.length[prompts], take_rows(prefix.cache, prompts))


def cut(state: DecodeState, length: Int[Array, " R"], ended: Bool[Array, " R"]) -> DecodeState:
    """Rows longer than `length` keep that many tokens and run again, or are done and finished where `ended`; there a row
    of just that length is finished too. The other rows stay as they are; per-row states of the rules are not taken back.
    """
    reached = (length < state.length) | (ended & (length == state.length))
    new_length = jnp.where(reached, length, state.length)
    inside = jnp.arange(state.tokens.shape[1])[None, :] < new_length[:, None]
    zero = lambda x: jnp.where(inside, x, jnp.zeros_like(x))
    return state.replace(
        tokens=jnp.where(inside, state.tokens, state.pad),
        mask=state.mask & inside,
        logp=zero(state.logp),
        entropy=zero(state.entropy),
        sampled_logp=zero(state.sampled_logp),
        sampled_entropy=zero(state.sampled_entropy),
        prompt_length=jnp.minimum(state.prompt_length, new_length),
        length=new_length,
        done=jnp.where(reached, ended, state.done),
        finished=jnp.where(reached, ended, state.finished),
    )


def begin(prefix: Prefix, request: Request, slots: int, shared: bool = False) -> DecodeState:
    """Rows of `slots` slots that stand at the end of their prompts; filler rows are done. `shared`: as many rows continue each
    prompt, one prompt after another, and its keys and values stay in one place."""
    source = jnp.maximum(request.source, 0)
    rows, filler = source.shape[0], request.source < 0
    more = slots - prefix.tokens.shape[1]
    length = prefix.length[source]
    limit = jnp.minimum(length + request.new, slots)
    zeros = jnp.zeros((rows, slots), request.temperature.dtype)
    if shared:
        cache = share(prefix.cache, prefix.length - 1, rows, more)
    else:
        cache = widen(take_rows(prefix.cache, source), more)
    return DecodeState(
        tokens=jnp.pad(prefix.tokens[source], ((0, 0), (0, more)), constant_values=request.pad),
        mask=jnp.zeros((rows, slots), bool),
        logp=zeros,
        entropy=zeros,
        sampled_logp=zeros,
        sampled_entropy=zeros,
        prompt_length=length,
        length=length,
        limit=limit,
        done=filler | (limit <= length),
        finished=jnp.zeros(rows, bool),
        key=request.key,
        temperature=request.temperature,
        cache=cache,
        rules=request.rules,
        stop=request.stop,
        pad=request.pad,
        program=request.program,
    )


def refill(state: DecodeState, prefix: Prefix, request: Request) -> DecodeState:
    """Rows with a source start on it; the others go on. The shapes stay, so one compiled program serves every refill."""
    fresh = begin(prefix, request, state.tokens.shape[1])
    starts = request.source >= 0
    choose = lambda new, old: jnp.where(starts.reshape(-1, *[1] * (new.ndim - 1)), new, old)
    beside = lambda new, old: jnp.where(starts[None, :, None, None, None], new, old)
    return by_row(choose, fresh, state).replace(cache=jax.tree.map(beside, fresh.cache, state.cache))
