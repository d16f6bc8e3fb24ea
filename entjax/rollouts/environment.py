"""Rollouts of several turns: who has spoken, what the environment said, and which tokens belong to which turn.

A round lets every open row finish its turn, asks the environment, and appends its reply behind the row's cache: no prefix is
computed twice, the reply is outside the mask. A row ends when its turn ends without a stop string of the environment, when
the environment is done or has answered `turns` times, or when prompt, turns and replies reach max_new_tokens.

    extra["turn"] [N, S]       number of the model's turn that a sampled token belongs to, -1 elsewhere
    extra["tool_calls"] [N]    turns that the environment answered;   extra["trajectory"] [N]  a number per row
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from entjax.rollouts.grown import Grown
from entjax.rollouts.harvest import Tools
from entjax.rollouts.stepper import FREE
from entjax.sampler import DecodeState
from entjax.sampler.host import fetch
from entjax.tasks import Example
from entjax.tasks.environment import Environment, Turn, silent

__all__ = ["Environment", "Round", "Track", "Turn", "Walk", "begin", "finish", "play", "silent"]

PROVIDES = frozenset({"turn", "tool_calls", "trajectory"})


class Track(NamedTuple):
    """One row as the host sees it. `spans`: (start, end, world before) of the finished turns."""

    example: int  # of the block
    world: Any
    start: int  # where the running turn begins
    spans: tuple[tuple[int, int, Any], ...] = ()
    calls: int = 0
    open: bool = True
    cut: bool = False  # the environment wanted to go on and there was no room


class Walk(NamedTuple):
    """A block of rows on their way; `tracks` has an entry for each, None where nobody sits yet."""

    state: DecodeState
    tracks: list[Track | None]
    limit: np.ndarray  # [n]
    computed: int = 0


class Round(NamedTuple):
    """What a round did: the sampled span of each row that was open, and the entropies in it."""

    spans: dict[int, tuple[int, int]]
    entropy: np.ndarray  # [R, S]


def begin(
    tools: Tools,
    environment: Environment,
    examples: Sequence[Example],
    names: tuple[np.ndarray, np.ndarray],
    source: np.ndarray,
) -> Walk:
    """Rows [n] at the prompts of the examples `source` (FREE: an empty place), all of them before their first turn."""
    prompts = [tools.encode(example) for example in examples]
    state = tools.stepper.begin(prompts, source, names)
    length = np.asarray([len(prompt) for prompt in prompts])
    tracks = [
        None if i == FREE else Track(int(i), environment.reset(examples[i]), len(prompts[i])) for i in source
    ]
    limit = np.where(source == FREE, 0, length[np.maximum(source, 0)] + tools.stepper.how.max_new_tokens)
    return Walk(state, tracks, limit)


def play(tools: Tools, environment: Environment, walk: Walk) -> tuple[Walk, Round]:
    """One turn of every open row, and the environment's replies."""
    stepper, tracks = tools.stepper, list(walk.tracks)
    since = np.array([0 if track is None else track.start for track in tracks])
    before = fetch(walk.state.length)
    state = stepper.run(walk.state, environment.stops, since)
    tokens, length, entropy = fetch((state.tokens, state.length, state.entropy))
    replies: list[list[int]] = [[] for _ in tracks]
    spans: dict[int, tuple[int, int]] = {}
    for row, track in enumerate(tracks):
        if track is None or not track.open:
            continue
        start, end = track.start, int(length[row])
        spans[row] = (start, end)
        text = tools.decode(tokens[row, start:end].tolist())
        tracks[row], replies[row] = _answer(stepper, environment, track, text, end, int(walk.limit[row]))
    computed = walk.computed + int((length - before).sum()) + sum(map(len, replies))
    running = np.array([track is not None and track.open for track in tracks])
    state = stepper.reopen(stepper.append(state, replies), running, walk.limit)
    return Walk(state, tracks, walk.limit, computed), Round(spans, entropy)


def _answer(
    stepper, environment: Environment, track: Track, text: str, end: int, limit: int
) -> tuple[Track, list[int]]:
    """The track after its turn, and the tokens to put behind it."""
    spans = (*track.spans, (track.start, end, track.world))
    track = track._replace(spans=spans, open=False)
    if not any(stop in text for stop in environment.stops):
        return track, []
    world, reply, done = environment.step(track.world, text)
    ids = stepper.encode(reply) if reply else []
    track = track._replace(world=world, calls=track.calls + 1)
    if done or track.calls >= environment.turns:
        return track, []
    if end + len(ids) >= min(limit, stepper.sampler.config.context):
        return track._replace(cut=True), []
    return track._replace(open=True, start=end + len(ids)), ids


def finish(tools: Tools, walk: Walk, numbers: np.ndarray) -> Grown:
    """The rows, all of them in use, with their turns; `numbers` are those of the block's examples."""
    tracks = walk.tracks
    completions = tools.stepper.finish(walk.state, np.zeros(len(tracks), np.int32))
    group = numbers[[track.example for track in tracks]].astype(np.int32)
    cut = np.array([track.cut for track in tracks])
    # `reopen` counts only rows at a stop as finished; a stop that found no room was none
    completions = completions.replace(group=group, finished=completions.finished & ~cut)
    turn = np.full(completions.tokens.shape, -1, np.int32)
    for row, track in enumerate(tracks):
        for number, (start, end, _) in enumerate(track.spans):
            turn[row, start:end] = number
    turn = np.where(completions.mask, turn, -1)
    calls = np.array([track.calls for track in tracks], np.int32)
    extra = {"turn": turn, "tool_calls": calls, "trajectory": np.arange(len(tracks), dtype=np.int32)}
    extra["trajectory"] += int(numbers[0]) * 4096  # blocks of prompts do not share numbers
    return Grown(completions, walk.computed, extra)
