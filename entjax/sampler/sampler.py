"""The sampler: host functions that turn token lists into the arrays of the compiled functions, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import Array, Float, Key

from entjax.models import Decoder, DecoderConfig
from entjax.models.config import wide
from entjax.sampler.device import Device, compile_for, row_shards
from entjax.sampler.generate import check_room, generate
from entjax.sampler.host import fetch
from entjax.sampler.sampling import Sampling
from entjax.sampler.shapes import Shapes, multiple_of
from entjax.sampler.state import OUTPUTS, Completions, DecodeState, Prefix, Request
from entjax.sampler.stops import Decode
from entjax.transform import chain

STOPS = 8  # the list of stop ids is padded to a multiple of this


class Sampler(NamedTuple):
    """Samples from one model structure; the weights are an argument of every call, so they are shared with the trainer.

    `generate` is made of the others: prefill -> begin -> decode (as often as you like) -> finish. In between, `fork` copies
    rows, `rewind` shortens them, `extend` appends given tokens; no prefix is computed again. States are values: each call
    returns a new one and leaves the old one usable.
    """

    device: Device
    config: DecoderConfig
    eos_ids: tuple[int, ...]
    pad_id: int
    text: Decode | None
    shapes: Shapes

    generate = generate

    def prefill(self, params: Any, prompts: Sequence[Sequence[int]]) -> Prefix:
        """The keys and values of the prompts, each computed once."""
        for i, prompt in enumerate(prompts):
            if not 0 < len(prompt) < self.config.context:
                raise ValueError(
                    f"Prompt {i} has {len(prompt)} tokens; the model takes 1 to {self.config.context - 1}, so that at "
                    "least one can be sampled. Filter or shorten the prompts."
                )
            if not 0 <= min(prompt) <= max(prompt) < self.config.vocab:
                worst = max(prompt) if min(prompt) >= 0 else min(prompt)
                raise ValueError(
                    f"Prompt {i} holds the token id {worst}, but the model's vocabulary ends at {self.config.vocab - 1}: was "
                    "it encoded with this model's tokenizer?"
                )
        rows = self.shapes.rows(len(prompts))
        tokens = np.full((rows, self.shapes.prompt(max(map(len, prompts)))), self.pad_id, np.int32)
        length = np.ones(rows, np.int32)
        for i, prompt in enumerate(prompts):
            tokens[i, : len(prompt)] = prompt
            length[i] = len(prompt)
        return self.device.prefill(params, tokens, length)

    def request(
        self, how: Sampling, source: np.ndarray, key: Key[Array, " R"], temperature: Any = None
    ) -> Request:
        """The arrays for rows that continue `source` [R] (rows of a Prefix, -1 for filler) with the keys [R]."""
        dtype = wide(self.config.dtype)
        rules = chain(how.rules) if how.rules else chain()
        stop = list(dict.fromkeys([*self.eos_ids, *how.stop_ids]))
        stop += [-1] * (-len(stop) % STOPS)
        temperature = how.temperature if temperature is None else temperature
        return Request(
            source=np.asarray(source, np.int32),
            key=key,
            new=np.full(len(source), how.max_new_tokens, np.int32),
            temperature=np.broadcast_to(np.asarray(temperature, dtype), len(source)),
            rules=rules.init(jax.ShapeDtypeStruct((len(source), self.config.vocab), dtype)),
            stop=np.asarray(stop, np.int32),
            pad=np.asarray(self.pad_id, np.int32),
            program=tuple((part.name, part.update) for part in rules.parts or ()),
        )

    def begin(self, prefix: Prefix, how: Sampling, rows: Sequence[int], key: Key[Array, " R"]) -> DecodeState:
        """A state with one row for each entry of `rows`, standing at the end of that prompt; keys from `sequence_keys`."""
        check_room(self.config, int(fetch(prefix.length).max()), how)
        return self.device.begin(prefix, self.request(how, np.asarray(rows), key), self.slots(prefix, how))

    def slots(self, prefix: Prefix, how: Sampling) -> int:
        """How many tokens a row can hold."""
        return prefix.tokens.shape[1] + self.shapes.new(how.max_new_tokens)

    def window(self, longest: int, slots: int) -> int:
        """The number of slots that a step has to read when the longest row has so many tokens."""
        return min(slots, self.shapes.window(longest))

    def decode(self, params: Any, state: DecodeState, steps: int) -> DecodeState:
        """At most `steps` more tokens for every running row; rows that are done write nothing."""
        slots, left = state.tokens.shape[1], steps
        while left > 0:
            done, length = fetch((state.done, state.length))
            if done.all():
                break
            longest = int(length[~done].max())
            window = self.window(longest, slots)
            now = min(left, window - longest + 1)
            state = self.device.decode(params, state, np.int32(now), window)
            left -= now
        return state

    def extend(
        self, params: Any, state: DecodeState, tokens: Sequence[Sequence[int]], new: int
    ) -> DecodeState:
        """Append given tokens to each row (tool output, the next turn; an empty list leaves the row as it is).

        They are not marked as sampled. A row that got some runs again and may sample `new` more, as far as it has slots.
        """
        if len(tokens) != len(state.length):
            raise ValueError(
                f"extend() takes one list of tokens for each of the {len(state.length)} rows, got {len(tokens)}."
            )
        count = np.asarray([len(t) for t in tokens], np.int32)
        length, slots = fetch(state.length), state.tokens.shape[1]
        if (length + count).max() > slots:
            worst = int((length + count).argmax())
            raise ValueError(
                f"Row {worst} has {length[worst]} tokens and cannot take {count[worst]} more: this state holds {slots} a row. "
                "Begin with a larger max_new_tokens, or continue with generate() from the whole text."
            )
        given = np.full((len(tokens), self.shapes.prompt(max(1, count.max()))), self.pad_id, np.int32)
        for row, piece in enumerate(tokens):
            given[row, : len(piece)] = piece
        window = self.window(int((length + count).max()), slots)
        return self.device.append(params, state, given, count, np.int32(new), window)

    def fork(
        self, state: DecodeState, rows: Sequence[int], key: Key[Array, " N"] | None = None
    ) -> DecodeState:
        """The given rows, in that order and as often as named; with their parents' keys unless new ones are given."""
        return self.device.fork(state, np.asarray(rows, np.int32), key)

    def rewind(self, state: DecodeState, length: Sequence[int]) -> DecodeState:
        """Take rows back to `length` [R] tokens, from where they run again; a row that is not longer stays as it is."""
        wanted = np.asarray(length, np.int32)
        if wanted.min() < 1:
            raise ValueError(f"A row keeps at least one token, got length {wanted.min()}.")
        return self.device.cut(state, wanted, np.zeros(len(wanted), bool))

    def peek(self, params: Any, state: DecodeState) -> Float[Array, "R V"]:
        """Log-probs of the full policy for the next token of every row; nothing is sampled."""
        longest = int(fetch(state.length).max())
        return self.device.peek(params, state, self.window(longest, state.tokens.shape[1]))

    def finish(self, state: DecodeState, group: Sequence[int] | None = None) -> Completions:
        """What the rows hold now, on the host."""
        out = fetch({name: getattr(state, name) for name in OUTPUTS})
        rows = len(out["length"])
        return Completions(**out, group=np.arange(rows) if group is None else np.asarray(group))


def make_sampler(
    model: Decoder,
    *,
    eos_ids: Sequence[int],
    pad_id: int = 0,
    text: Decode | None = None,
    shapes: Shapes | None = None,
    rows_sharding: NamedSharding | None = None,
) -> Sampler:
    """A sampler for models of the structure of `model`.

    `text` turns token ids into text, for stop strings. `rows_sharding` places the row axis of a batch on a mesh, e.g.
    NamedSharding(mesh, PartitionSpec(("data", "fsdp"))); numbers of rows are then rounded up to fit.
    """
    shapes = Shapes() if shapes is None else shapes
    bad = [i for i in (*eos_ids, pad_id) if not 0 <= i < model.config.vocab]
    if bad:
        raise ValueError(f"Token ids {bad} are outside the model's vocabulary of {model.config.vocab}.")
    rows, shards = shapes.rows, row_shards(rows_sharding)
    shapes = shapes._replace(rows=lambda size: multiple_of(shards)(rows(size)))
    if shards > 1:  # rows do not change their devices
        shapes = shapes._replace(shrink=0)
    if rows_sharding is not None:
        shapes = shapes._replace(threads=1)
    return Sampler(compile_for(model, rows_sharding), model.config, tuple(eos_ids), pad_id, text, shapes)
