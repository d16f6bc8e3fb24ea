"""Entropy-adaptive decoding with two models (EAD, arXiv 2502.06833): the large one writes where the text is uncertain.

Both samplers keep a state of the same rows. The model whose turn it is decodes a few tokens; the host finds the token at which
`decoding.ead` switches, drops what lies behind it, and gives the rest to the other model in one parallel pass, so both caches
stand at the same token. Draws depend on sequence and position only: how often the host looks does not matter, and two equal
models sample what one samples. The rule wants entropies before any temperature: leave Sampling.temperature at 1 and sample cooler
with `decoding.temperature`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from entjax.decoding.ead import BIT, LARGE, SMALL, Switch, Writer, after_token, check
from entjax.rollouts.rows import begin_rows
from entjax.sampler import Completions, DecodeState, Sampler, Sampling
from entjax.sampler.host import fetch

TRACES = ("mask", "logp", "entropy", "sampled_logp", "sampled_entropy")


class Model(NamedTuple):
    """A sampler with the weights to use."""

    sampler: Sampler
    params: Any


class Switched(NamedTuple):
    """Statistics of a token are those of the model that wrote it."""

    completions: Completions
    large: np.ndarray  # [N, S] bool, True on tokens that the large model wrote


def switching(
    small: Model,
    large: Model,
    prompts: Sequence[Sequence[int]],
    how: Sampling,
    rule: Switch = Switch(),  # noqa: B008  (a NamedTuple of numbers)
    *,
    key: Any,
    look: int = 8,
) -> Switched:
    """One completion of every prompt."""
    check(rule)
    if look < 1:
        raise ValueError(f"switching() needs look >= 1, got {look}.")
    models = (small, large)
    states = [begin_rows(sampler, params, prompts, how, key=key) for sampler, params in models]
    out, limit = _blank(states, prompts, how)
    by_large = np.zeros_like(out.mask)
    writers = [Writer() for _ in prompts]
    running = out.length < limit
    while running.any():
        turn = np.array([writer.model for writer in writers])
        for this in (SMALL, LARGE):
            mine = running & (turn == this)
            if not mine.any():
                continue
            sampler, params = models[this]
            states[this] = sampler.decode(params, _wake(states[this], mine, limit), look)
            before = out.length.copy()
            _accept(states[this], out, writers, mine, rule)
            states[this] = sampler.rewind(states[this], _rows(out.length, states[this]))
            pieces = [t[a:b].tolist() for t, a, b in zip(out.tokens, before, out.length)]
            sampler, params = models[1 - this]
            others = len(states[1 - this].length) - len(pieces)
            states[1 - this] = sampler.extend(params, states[1 - this], pieces + [[]] * others, 0)
            at = np.arange(out.tokens.shape[1])
            by_large |= (at >= before[:, None]) & (at < out.length[:, None]) & (this == LARGE)
        running = running & ~out.finished & (out.length < limit)
    return Switched(out, by_large)


def _blank(states: Sequence[DecodeState], prompts, how: Sampling) -> tuple[Completions, np.ndarray]:
    """(completions that hold the prompts only, the length at which each row is cut)."""
    slots, n = min(state.tokens.shape[1] for state in states), len(prompts)
    shown = fetch({name: getattr(states[0], name) for name in ("tokens", *TRACES)})
    arrays = {name: np.array(x[:n, :slots]) for name, x in shown.items()}
    length = np.array([len(prompt) for prompt in prompts], np.int32)
    limit = np.minimum(length + how.max_new_tokens, slots)
    finished, group = np.zeros(n, bool), np.arange(n)
    return Completions(
        **arrays, prompt_length=length, length=length.copy(), finished=finished, group=group
    ), limit


def _wake(state: DecodeState, rows: np.ndarray, limit: np.ndarray) -> DecodeState:
    """Only these rows run, up to their limits."""
    asleep = ~_rows(rows, state, fill=False)
    return state.replace(done=jnp.asarray(asleep), limit=jnp.asarray(_rows(limit, state)))


def _accept(
    state: DecodeState, out: Completions, writers: list[Writer], rows: np.ndarray, rule: Switch
) -> None:
    """Copy what the rows wrote up to the token after which the other model writes, and see who that is."""
    new = fetch({name: getattr(state, name) for name in ("tokens", *TRACES, "length", "finished")})
    for row in np.flatnonzero(rows):
        start, end, turn = out.length[row], new["length"][row], writers[row].model
        length = start
        while length < end and writers[row].model == turn:
            writers[row] = after_token(writers[row], new["entropy"][row, length] / BIT, rule)
            length += 1
        for name in ("tokens", *TRACES):
            getattr(out, name)[row, start:length] = new[name][row, start:length]
        out.length[row] = length
        out.finished[row] = new["finished"][row] and length == end


def _rows(values: np.ndarray, state: DecodeState, fill: int | bool = 1) -> np.ndarray:
    """One value for each row of the state; filler rows get `fill`."""
    whole = np.full(len(state.length), fill, values.dtype)
    whole[: len(values)] = values
    return whole
