"""The sampler's rows for strategies that branch: bound to the weights, the settings and the random numbers of one step.

A state has R rows of which the first n are in use; the rest pads to a number that is compiled already (and that the devices
can share). A row is named by (prompt id, sample number), as in `generate`, and draws what `generate` draws for that name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from entjax.sampler import Completions, DecodeState, Sampler, Sampling, sequence_keys
from entjax.sampler.generate import check_room
from entjax.sampler.host import fetch
from entjax.sampler.state import by_row
from entjax.sampler.stops import first_stop
from entjax.transform import Transform, chain

FREE = -1  # as a source: nobody sits here yet
LARGE = 2**30


@jax.jit
def _put(state: DecodeState, small: DecodeState, rows: Any) -> DecodeState:
    """The state with the rows `rows` replaced by those of `small`; a number that is no row goes nowhere."""
    new = by_row(lambda old, x: old.at[rows].set(x, mode="drop"), state, small)
    return new.replace(
        cache=jax.tree.map(lambda old, x: old.at[:, rows].set(x, mode="drop"), state.cache, small.cache)
    )


@jax.jit
def _beside(old: Any, new: Any) -> Any:
    """Values of the host as an array on the devices of `old`."""
    return jnp.where(jnp.ones_like(old, bool), new, old)


class Stepper(NamedTuple):
    """States are values: every call returns a new one. Lengths and limits count the tokens of the whole row."""

    sampler: Sampler
    params: Any
    how: Sampling
    key: Any
    step: int
    encode: Callable[[str], list[int]]
    decode: Callable[[Sequence[int]], str]
    compact: int = 64  # from so many rows on the last half, once it is alone, is decoded by itself
    wave: int = 64  # rows decoded together; more and they wait for the longest, fewer and a step costs the same for less

    def begin(
        self,
        prompts: Sequence[Sequence[int]],
        source: np.ndarray,
        names: tuple[np.ndarray, np.ndarray],
        *,
        room: int | None = None,
        rules: Transform | None = None,
    ) -> DecodeState:
        """Rows at the end of the prompts `source` [n] (FREE: empty), named (prompt ids [n], samples [n]).

        `room`: tokens behind a prompt that a row can hold, by default max_new_tokens; a row's limit is always prompt +
        max_new_tokens until `reopen` says otherwise. `rules` go before the run's own decoding rules.
        """
        mine = [t for t in (rules, self.how.rules) if t is not None]
        how = dataclasses.replace(self.how, rules=chain(*mine) if mine else None)
        check_room(self.sampler.config, max(map(len, prompts)), how)
        prefix = self.sampler.prefill(self.params, prompts)
        source = self._fill(source, FREE)
        request = self.sampler.request(how, source, self._keys(*names))
        slots = prefix.tokens.shape[1] + self.sampler.shapes.new(room or how.max_new_tokens)
        return self.sampler.device.begin(prefix, request, slots)

    def run(
        self, state: DecodeState, stops: Sequence[str] = (), since: np.ndarray | None = None
    ) -> DecodeState:
        """Decode until every row has ended; a row also ends at the first stop string behind index `since` [n]."""
        stops = (*self.how.stop_strings, *stops)
        wave = self.sampler.shapes.rows(self.wave)
        if not stops and len(state.length) < min(self.compact, wave + 1):
            return self.sampler.decode(self.params, state, LARGE)
        seen, start, done = (np.array(x) for x in fetch((state.length, state.prompt_length, state.done)))
        start = start if since is None else self._fill(since, 0)
        if len(done) > wave:
            return self._in_waves(state, wave, stops, start)
        while not done.all():
            size = self._enough(len(done), int((~done).sum()))
            if size < len(done):
                return self._run_rows(state, np.flatnonzero(~done), size, stops, start)
            state = self.sampler.decode(self.params, state, self.sampler.shapes.block)
            tokens, length = fetch((state.tokens, state.length))
            done_before, done = done, np.array(fetch(state.done))
            if not stops:
                continue
            ends = np.full(len(done), tokens.shape[1] + 1, np.int32)
            for row in np.flatnonzero(~done_before):
                completion = tokens[row, start[row] : length[row]].tolist()
                found = first_stop(self.decode, completion, int(seen[row] - start[row]), stops)
                ends[row] = ends[row] if found is None else start[row] + found
            if (ends <= length).any():
                state = self.sampler.device.cut(state, ends, np.ones(len(ends), bool))
            done, seen = (np.array(x) for x in fetch((state.done, state.length)))
        return state

    def _in_waves(self, state: DecodeState, wave: int, stops, since: np.ndarray) -> DecodeState:
        """`run` for `wave` rows at a time, rows of like length together: they end together and read equally much cache."""
        length, done = (np.array(x) for x in fetch((state.length, state.done)))
        order = np.argsort(length, kind="stable")
        order = order[~done[order]]
        for rows in (order[i : i + wave] for i in range(0, len(order), wave)):
            state = self._run_rows(state, rows, wave, stops, since)
        return state

    def _enough(self, total: int, running: int) -> int:
        """The batch for so many running rows: a half, a quarter ... of all, as long as it pays."""
        size = total
        while size >= self.compact and size % 2 == 0 and size // 2 >= running:
            size //= 2
        return min(total, self.sampler.shapes.rows(size))

    def _run_rows(
        self, state: DecodeState, rows: np.ndarray, size: int, stops, since: np.ndarray
    ) -> DecodeState:
        """`run` for the rows that are still open, in a smaller batch."""
        total, pad = len(since), size - len(rows)
        small = self.sampler.fork(state, np.concatenate([rows, np.repeat(rows[:1], pad)]))
        if pad:
            done = np.array(fetch(small.done))
            done[len(rows) :] = True
            small = small.replace(done=_beside(small.done, done))
        small = self.run(small, stops, np.pad(since[rows], (0, pad)))
        return _put(state, small, np.concatenate([rows, np.full(pad, total)]).astype(np.int32))

    def fork(
        self,
        state: DecodeState,
        rows: np.ndarray,
        length: np.ndarray,
        names: tuple[np.ndarray, np.ndarray],
    ) -> DecodeState:
        """The given rows [n], in that order and as often as named, taken back to `length` [n] tokens, with names of their own.

        Rows that had ended and keep their full length stay ended; see `reopen`.
        """
        # cut() leaves alone what is not longer; a row that pads keeps one token and is closed
        state = self.sampler.fork(state, self._fill(rows, 0), self._keys(*names))
        state = self.sampler.rewind(state, self._fill(length, 1))
        done = np.array(fetch(state.done))
        done[len(rows) :] = True
        return state.replace(done=_beside(state.done, done))

    def reopen(self, state: DecodeState, running: np.ndarray, limit: np.ndarray) -> DecodeState:
        """Of the rows in use those of `running` [n] go on, up to `limit` [n] tokens in all; the others are done."""
        length, limits, finished = (np.array(x) for x in fetch((state.length, state.limit, state.finished)))
        slots = state.tokens.shape[1]
        limits[: len(limit)] = np.minimum(limit, min(slots, self.sampler.config.context))
        on = self._fill(running, False).astype(bool) & (length < limits)
        values = {"done": ~on, "finished": finished & ~on, "limit": limits}
        return state.replace(**{name: _beside(getattr(state, name), x) for name, x in values.items()})

    def append(self, state: DecodeState, tokens: Sequence[Sequence[int]]) -> DecodeState:
        """Given tokens behind the rows in use, not marked as sampled; `reopen` says who goes on."""
        if not any(tokens):
            return state
        padded = [*tokens, *[[]] * (len(state.length) - len(tokens))]
        return self.sampler.extend(self.params, state, padded, 1)

    def rows(self, state: DecodeState) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(tokens [R, S], length [R], finished [R]) on the host."""
        return fetch((state.tokens, state.length, state.finished))

    def finish(self, state: DecodeState, group: np.ndarray) -> Completions:
        """The rows in use, with their groups [n]."""
        full = self.sampler.finish(state, self._fill(group, FREE))
        names = Completions.__dataclass_fields__
        return Completions(**{name: np.array(getattr(full, name)[: len(group)]) for name in names})

    def prompts_at_once(self, rows: int) -> int:
        """How many prompts to take at a time when each needs so many rows."""
        return max(1, self.sampler.shapes.at_once // rows)

    def _fill(self, values: np.ndarray, fill: Any) -> np.ndarray:
        values = np.asarray(values)
        values = values.astype(np.int32) if values.dtype.kind == "i" else values
        return np.pad(values, (0, self.sampler.shapes.rows(len(values)) - len(values)), constant_values=fill)

    def _keys(self, prompt: np.ndarray, sample: np.ndarray) -> Any:
        return sequence_keys(self.key, np.int32(self.step), self._fill(prompt, 0), self._fill(sample, 0))
