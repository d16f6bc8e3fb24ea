"""generate(): prompts in, completions out; the host loop that picks windows, looks for stop strings and refills rows."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from entjax.models import DecoderConfig
from entjax.models.config import check_length
from entjax.sampler.host import fetch
from entjax.sampler.keys import sequence_keys
from entjax.sampler.parts import count_parts, shapes_of_part, side_by_side
from entjax.sampler.sampling import Sampling
from entjax.sampler.shapes import Shapes
from entjax.sampler.state import OUTPUTS, Completions, DecodeState, Prefix, Request
from entjax.sampler.stops import first_stop

if TYPE_CHECKING:
    from entjax.sampler.sampler import Sampler

NOBODY = -1


@dataclasses.dataclass
class Board:
    """The host's view of the rows: who sits where, and how far each may have come."""

    owner: np.ndarray  # [R] number of the sequence in this row, or NOBODY
    start: np.ndarray  # [R] length of the prompt
    length: np.ndarray  # [R] upper bound of the row's length; exact after a look
    limit: np.ndarray  # [R]
    seen: np.ndarray  # [R] length up to which stop strings were looked for
    done: np.ndarray  # [R] bool, as far as the host knows

    @property
    def running(self) -> np.ndarray:
        return (self.owner != NOBODY) & ~self.done


@dataclasses.dataclass(frozen=True)
class Job:
    """One call of generate(): N sequences, and what each needs to start."""

    how: Sampling
    key: Any
    step: int
    source: np.ndarray  # [N] row of the prefix
    prompt: np.ndarray  # [N] prompt id
    sample: np.ndarray  # [N] sample id
    temperature: np.ndarray  # [N]
    length: np.ndarray  # [N] of the prompt

    @property
    def total(self) -> int:
        return len(self.source)

    def part(self, number: int, parts: int) -> Job:
        """The sequences of some of the prompts, `number` of so many parts of equal size."""
        mine = slice(number * self.total // parts, (number + 1) * self.total // parts)
        rows = ("source", "prompt", "sample", "temperature", "length")
        job = dataclasses.replace(self, **{name: getattr(self, name)[mine] for name in rows})
        return dataclasses.replace(job, source=job.source - job.source[0])


def generate(
    sampler: Sampler,
    params: Any,
    prompts: Sequence[Sequence[int]],
    how: Sampling,
    *,
    key: Any,
    step: int = 0,
    samples: int = 1,
    prompt_ids: Sequence[int] | None = None,
) -> Completions:
    """Sample `samples` completions of every prompt (token ids). A sequence depends on (key, step, prompt id, sample number)
    and its prompt only, not on what else is in the batch."""
    job = _job(prompts, how, key, step, samples, prompt_ids)
    check_room(sampler.config, int(job.length.max()), how)
    if how.stop_strings and sampler.text is None:
        raise ValueError(
            "stop_strings need the text of the tokens: make_sampler(..., text=tokenizer.decode)."
        )
    shapes, host = sampler.shapes, threading.Lock()
    parts = count_parts(params, len(prompts), min(job.total, shapes.at_once), shapes.threads)
    if parts == 1:
        out = _decode(sampler, params, job, lambda: sampler.prefill(params, prompts), host)
        return Completions(**out, group=job.prompt)
    part = sampler._replace(shapes=shapes_of_part(shapes, parts))
    prefix, size = sampler.prefill(params, prompts), len(prompts) // parts
    rows = np.minimum(np.arange(part.shapes.rows(size), dtype=np.int32), size - 1)

    def decode(number: int) -> dict[str, np.ndarray]:
        own = lambda: part.device.some(prefix, rows + np.int32(number * size))
        return _decode(part, params, job.part(number, parts), own, host)

    found = side_by_side(decode, parts)
    out = {name: np.concatenate([x[name] for x in found]) for name in OUTPUTS}
    return Completions(**out, group=job.prompt)


def _decode(
    sampler: Sampler, params: Any, job: Job, prefill: Callable[[], Prefix], host: threading.Lock
) -> dict[str, np.ndarray]:
    """The sequences of a job behind their prompts. Parts that are decoded side by side take turns on the host and let go of it
    while they wait for the device: so each program is compiled once, and `text` is called by one of them at a time."""
    with host:
        prefix = prefill()
        board = _board(sampler.shapes.rows(min(job.total, sampler.shapes.at_once)))
        request, waiting = _seat(sampler, job, board, 0)
        shared = shares_prompts(sampler.shapes, prefix, request)
        state = sampler.device.begin(prefix, request, sampler.slots(prefix, job.how), shared=shared)
    out = _outputs(job, state)
    prefix = prefix if waiting < job.total else None  # or its memory is free for the others
    while board.running.any():
        watched = bool(job.how.stop_strings) or waiting < job.total or _half(sampler, len(board.owner)) > 0
        with host:
            state = _run(sampler, params, state, board, watched)
        if not watched:
            continue
        jax.block_until_ready(state.length)
        with host:
            state = _look(sampler, job.how, state, board)
            if waiting < job.total and _worth_refilling(board):
                _harvest(state, board, out)
                request, waiting = _seat(sampler, job, board, waiting)
                state = sampler.device.refill(state, prefix, request)
            elif waiting == job.total:
                state, board = _shrink(sampler, state, board, out)
    _harvest(state, board, out)
    return out


def shares_prompts(shapes: Shapes, prefix: Prefix, request: Request) -> bool:
    """Are long prompts continued by as many rows each, one prompt after another? Then these share its keys and values."""
    prompts, slots = prefix.tokens.shape
    samples = len(request.source) // prompts
    long = 0 < shapes.share <= slots
    return long and samples > 1 and np.array_equal(request.source, np.repeat(np.arange(prompts), samples))


def check_room(config: DecoderConfig, longest: int, how: Sampling) -> None:
    """Refuse prompts behind which the new tokens would leave the model's context."""
    if longest < config.context < longest + how.max_new_tokens:
        raise ValueError(
            f"A prompt of {longest} tokens and {how.max_new_tokens} new ones exceed the model's context of {config.context}: "
            "lower max_new_tokens or filter the prompts."
        )
    check_length(config, longest + how.max_new_tokens)


def _run(sampler: Sampler, params: Any, state: DecodeState, board: Board, watched: bool) -> DecodeState:
    """Decode up to the end of the cache window or of the block, without waiting for the result."""
    elsewhere = 0 if state.cache.prompts is None else board.start - 1  # tokens that lie with the prompts
    longest = int((board.length - elsewhere)[board.running].max())
    window = sampler.window(longest, state.cache.slots)
    steps = min(window - longest + 1, int((board.limit - board.length)[board.running].max()))
    if watched:
        steps = min(steps, sampler.shapes.block)
    state = sampler.device.advance(params, state, np.int32(steps), window)
    board.length = np.where(board.running, np.minimum(board.length + steps, board.limit), board.length)
    if not watched:  # nobody looks, so a row counts as running for as long as it may be
        board.done = board.done | (board.length >= board.limit)
    return state


def _look(sampler: Sampler, how: Sampling, state: DecodeState, board: Board) -> DecodeState:
    """Read how far the rows are, and cut those whose text holds a stop string."""
    board.length, board.done = (np.array(x) for x in fetch((state.length, state.done)))
    if not how.stop_strings:
        return state
    tokens = fetch(state.tokens)
    ends = np.full(len(board.owner), tokens.shape[1] + 1, np.int32)
    for row in np.flatnonzero((board.owner != NOBODY) & (board.length > board.seen)):
        start = board.start[row]
        completion = tokens[row, start : board.length[row]].tolist()
        n = first_stop(sampler.text, completion, board.seen[row] - start, how.stop_strings)
        ends[row] = ends[row] if n is None else start + n
        board.seen[row] = board.length[row]
    hit = ends <= board.length
    board.length, board.done = np.where(hit, ends, board.length), board.done | hit
    return sampler.device.cut(state, ends, np.ones(len(ends), bool)) if hit.any() else state


def _worth_refilling(board: Board) -> bool:
    """A refill copies the cache, which costs about one step: wait until an eighth of the rows are idle."""
    return not board.running.any() or 8 * int((~board.running).sum()) >= len(board.owner)


def _half(sampler: Sampler, rows: int) -> int:
    """The next smaller batch, 0 where there is none."""
    least = sampler.shapes.shrink
    return rows // 2 if least and rows % 2 == 0 and rows // 2 >= least else 0


def _shrink(
    sampler: Sampler, state: DecodeState, board: Board, out: dict[str, np.ndarray]
) -> tuple[DecodeState, Board]:
    """Half the rows, or half of these, once that many hold all that still run; the long ones of a batch then cost less."""
    running = np.flatnonzero(board.running)
    size = len(board.owner)
    while len(running) and _half(sampler, size) >= len(running):
        size = _half(sampler, size)
    if size == len(board.owner):
        return state, board
    _harvest(state, board, out)
    idle = np.flatnonzero(~board.running)[: size - len(running)]
    rows = np.sort(np.concatenate([running, idle])).astype(np.int32)
    state = sampler.device.fork(state, rows, None)
    return state, Board(*(getattr(board, field.name)[rows] for field in dataclasses.fields(board)))


def _seat(sampler: Sampler, job: Job, board: Board, waiting: int) -> tuple[Request, int]:
    """Give the free rows to the sequences from number `waiting` on; also the number of the first that still waits."""
    free = np.flatnonzero(board.owner == NOBODY)[: job.total - waiting]
    seated = waiting + np.arange(len(free))
    board.owner[free] = seated
    board.start[free] = board.length[free] = board.seen[free] = job.length[seated]
    board.limit[free] = job.length[seated] + job.how.max_new_tokens
    board.done[free] = False
    number = np.zeros(len(board.owner), np.int32)
    number[free] = seated
    source = np.full(len(board.owner), -1, np.int32)
    source[free] = job.source[seated]
    keys = sequence_keys(job.key, np.int32(job.step), job.prompt[number], job.sample[number])
    return sampler.request(job.how, source, keys, job.temperature[number]), waiting + len(free)


def _harvest(state: DecodeState, board: Board, out: dict[str, np.ndarray]) -> None:
    """Copy what the rows that are done hold to their sequences, and free them."""
    values = fetch({name: getattr(state, name) for name in OUTPUTS})
    rows = np.flatnonzero((board.owner != NOBODY) & board.done)
    for name in OUTPUTS:
        out[name][board.owner[rows]] = values[name][rows]
    board.owner[rows] = NOBODY


def _outputs(job: Job, state: DecodeState) -> dict[str, np.ndarray]:
    shapes = {name: getattr(state, name) for name in OUTPUTS}
    return {name: np.zeros((job.total, *x.shape[1:]), x.dtype) for name, x in shapes.items()}


def _board(rows: int) -> Board:
    zeros = lambda: np.zeros(rows, np.int32)
    return Board(np.full(rows, NOBODY), zeros(), zeros(), zeros(), zeros(), np.ones(rows, bool))


def temperatures(how: Sampling, total: int) -> np.ndarray:
    """One for each of `total` sequences."""
    given = np.asarray(how.temperature, np.float64)
    if given.shape not in ((), (total,)):
        raise ValueError(f"temperature must be one number or {total} of them, got the shape {given.shape}.")
    return np.broadcast_to(given, (total,))


def check_ids(prompts: Sequence, prompt_ids: Sequence[int] | None) -> np.ndarray:
    """The prompts' ids, their numbers by default."""
    ids = np.arange(len(prompts)) if prompt_ids is None else np.asarray(prompt_ids)
    whole = ids.dtype.kind in "iu" and (not ids.size or -(2**31) <= ids.min() <= ids.max() < 2**31)
    if not whole or ids.shape != (len(prompts),) or len(np.unique(ids)) != len(ids):
        raise ValueError(
            f"prompt_ids must be {len(prompts)} different numbers, whole and below 2^31, got {ids.tolist()}: sequences of one "
            "prompt id and sample number draw the same tokens. For more completions of a prompt raise `samples`."
        )
    return ids


def _job(prompts, how: Sampling, key, step: int, samples: int, prompt_ids) -> Job:
    """Lay the sequences out, the samples of a prompt next to each other."""
    if samples < 1 or not prompts:
        raise ValueError(
            f"generate() needs at least one prompt and one sample, got {len(prompts)} and {samples}."
        )
    ids = check_ids(prompts, prompt_ids)
    total = len(prompts) * samples
    source = np.repeat(np.arange(len(prompts), dtype=np.int32), samples)
    return Job(
        how=how,
        key=key,
        step=step,
        source=source,
        prompt=ids.astype(np.int32)[source],
        sample=np.tile(np.arange(samples, dtype=np.int32), len(prompts)),
        temperature=temperatures(how, total),
        length=np.asarray([len(prompt) for prompt in prompts], np.int32)[source],
    )
