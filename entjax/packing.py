"""Which places a pass over the policy computes: a prompt once for all its completions, no padding, no logits of prompts.

A rollout keeps its rows [B, T]: everything that decides about tokens (the chains) works there. A Pack says where the model
computes them instead: P families, each one prompt of W places and K bins of L places that hold the completions, several in a
bin where they are short. `at[p, k, l]` is the index t of the token that a place predicts; its input is the token before. So
places stand on the tokens that the loss sees, and hidden states need no shift. Losses and gradients are those of the rows.

The pack of a batch is made on the host from its lengths; its shapes are rounded so that few programs are compiled.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Int

from entjax.models import DecoderConfig
from entjax.types import Rollout

MINIMUM_GAIN = 0.95  # of the cost of plain rows: what a pack must stay below to be worth a program of its own


@struct.dataclass
class Pack:
    """Places of M minibatches (consecutive optimizer steps); rows are counted within the minibatch.

    Inside a step the leading axis is gone, inside a microbatch P is smaller. A family without completions is filler.
    """

    lead: Int[Array, "*M P"]  # a row that begins with the prompt of the family
    known: Int[Array, "*M P"]  # tokens of the prompt that are computed there: all but the last
    row: Int[Array, "*M P K L"]
    at: Int[Array, "*M P K L"]  # 0: an empty place
    width: int = struct.field(pytree_node=False)  # W

    @property
    def computed(self) -> int:
        """Places that the model computes, empty ones included."""
        return int(np.prod(self.lead.shape)) * self.width + int(np.prod(self.row.shape))

    def minibatch(self, index: Any) -> Pack:
        return jax.tree.map(lambda x: x[index], self)

    def whole(self) -> Pack:
        """All minibatches as one pack, rows counted in the batch (minibatch m has the rows m, m + M, ...)."""
        minibatches = self.lead.shape[0]
        number = jnp.arange(minibatches, dtype=jnp.int32)
        join = lambda x: x.reshape(-1, *x.shape[2:])
        lead = self.lead * minibatches + number[:, None]
        row = self.row * minibatches + number[:, None, None, None]
        return Pack(join(lead), join(self.known), join(row), join(self.at), self.width)

    def split(self, pieces: int) -> Pack:
        """The families dealt out to `pieces` microbatches: a leading axis to scan over."""
        return jax.tree.map(lambda x: jnp.swapaxes(x.reshape(-1, pieces, *x.shape[1:]), 0, 1), self)

    def gather(self, tree: Any) -> Any:
        """[B, T, ...] leaves at their places, [P, K * L, ...]; other leaves stay. What empty places show is not zero."""
        row, at = self._flat()
        return jax.tree.map(lambda x: x[row, at] if jnp.ndim(x) >= 2 else x, tree)

    def taken(self) -> Array:
        """[P, K * L]: the place holds a token."""
        return self._flat()[1] > 0

    def scatter(self, tree: Any, batch: int, length: int) -> Any:
        """[P, K * L] leaves back in their rows [B, T]; 0 where nothing was computed."""
        row, at = self._flat()
        row = jnp.where(at > 0, row, batch)  # past the end: dropped
        return jax.tree.map(
            lambda x: jnp.zeros((batch, length), x.dtype).at[row, at].set(x, mode="drop"), tree
        )

    def hidden(self, model: Any, tokens: Int[Array, "B T"]) -> Array:
        """The policy's hidden states [P, K * L, D] that predict the tokens of the places."""
        prompts = tokens[self.lead][:, : self.width]
        before = jnp.maximum(self.at - 1, 0)
        segments = jnp.where(self.at > 0, self.row, -1)
        hidden = model.families(prompts, self.known, tokens[self.row, before], before, segments)
        return hidden.reshape(hidden.shape[0], -1, hidden.shape[-1])

    def _flat(self) -> tuple[Array, Array]:
        return tuple(x.reshape(x.shape[0], -1) for x in (self.row, self.at))


class Cost(NamedTuple):
    """Arithmetic of one place relative to the matrices of the layers: the head, and a key that is looked at."""

    head: float
    key: float

    @classmethod
    def of(cls, c: DecoderConfig) -> Cost:
        attention = c.width * c.head_dim * (2 * c.heads + 2 * c.kv_heads)
        matrices = c.layers * (attention + 3 * c.width * c.mlp)
        return cls(c.width * c.vocab / matrices, 2.0 * c.layers * c.heads * c.head_dim / matrices)

    def rows(self, rows: int, length: int) -> float:
        return rows * length * (1 + self.head + self.key * length)

    def pack(self, families: int, width: int, bins: int, length: int) -> float:
        prompts = families * width * (1 + self.key * width)
        return prompts + families * bins * length * (1 + self.head + self.key * (width + length))


class Span(NamedTuple):
    row: int
    start: int  # index of the first sampled token
    end: int  # one past the last


def plan(rollout: Rollout, cost: Cost, *, minibatches: int = 1, microbatches: int = 1) -> Pack | None:
    """The cheapest pack for a rollout, or None where plain rows cost as little. A function of the batch alone, so that a resumed
    run takes the same."""
    tokens, mask = np.asarray(rollout.tokens), np.asarray(rollout.mask)
    batch, length = mask.shape
    groups = [_prompts(tokens[m::minibatches], mask[m::minibatches]) for m in range(minibatches)]
    spans = [span for group in groups for members in group for span in members]
    if not spans or min(s.start for s in spans) == 0:  # nothing predicts a first token
        return None
    # Quarters, where rows have eighths: bins are filled anyway, and a third fewer programs are compiled where lengths vary.
    size = min(bucket(max(s.end - s.start for s in spans), 4), length)
    width = min(bucket(max(1, *(s.start - 1 for s in spans)), 4), length)
    bins = [[_fill(members, size) for members in group] for group in groups]
    shapes = _candidates(bins, microbatches)
    best = min(shapes, key=lambda shape: cost.pack(shape[0], width, shape[1], size))
    if minibatches * cost.pack(best[0], width, best[1], size) > MINIMUM_GAIN * cost.rows(batch, length):
        return None
    return _build(bins, best[0], best[1], size, width)


def plain_share(rollout: Rollout) -> float:
    """The share of real tokens among those that plain rows compute."""
    mask = np.asarray(rollout.mask)
    ends = np.where(mask.any(1), mask.shape[1] - mask[:, ::-1].argmax(1), 0)
    return float(ends.sum() / mask.size)


def share(pack: Pack) -> float:
    """The share of real tokens among the places that a pack computes."""
    at = np.asarray(pack.at)
    used = (at > 0).any((-1, -2))
    return float(((at > 0).sum() + (np.asarray(pack.known) * used).sum()) / pack.computed)


def _prompts(tokens: np.ndarray, mask: np.ndarray) -> list[list[Span]]:
    """The rows that have something sampled, put together where their prompts are the same tokens."""
    groups: dict[bytes, list[Span]] = {}
    for row in np.flatnonzero(mask.any(1)):
        start, end = int(mask[row].argmax()), mask.shape[1] - int(mask[row, ::-1].argmax())
        groups.setdefault(tokens[row, :start].tobytes(), []).append(Span(int(row), start, end))
    return list(groups.values())


def _fill(members: Sequence[Span], size: int) -> list[list[Span]]:
    """Completions in bins of `size` places: the longest first, each into the fullest bin that has room."""
    bins: list[list[Span]] = []
    room: list[int] = []
    for span in sorted(members, key=lambda s: s.start - s.end):
        need = span.end - span.start
        fitting = [i for i, left in enumerate(room) if left >= need]
        if not fitting:
            bins.append([])
            room.append(size)
            fitting = [len(bins) - 1]
        best = min(fitting, key=lambda i: room[i])
        bins[best].append(span)
        room[best] -= need
    return bins


def _candidates(bins: list[list[list]], microbatches: int) -> list[tuple[int, int]]:
    """(families, bins of a family): one family a prompt, or fewer bins and the prompts with many completions several times."""
    most = max(len(of_prompt) for group in bins for of_prompt in group)
    found = []
    for k in sorted({most, *(n for n in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32) if n < most)}):
        count = max(sum(math.ceil(len(of_prompt) / k) for of_prompt in group) for group in bins)
        # Splitting makes the number of families depend on the lengths, so it is rounded: few programs instead of many.
        found.append((multiple(count if k == most else coarse(count), microbatches), k))
    return found


def bucket(length: int, parts: int = 8) -> int:
    """The compiled length for rows of up to `length` tokens: steps of 16, or of an eighth of the next power of two."""
    return multiple(length, max(16, (1 << (length - 1).bit_length()) // parts))


def coarse(count: int) -> int:
    """The number rounded up to one of 8, 9 ... 16, 18 ... 32, 36 ...: at most an eighth more."""
    step = max(1, 1 << max(0, (count - 1).bit_length() - 4))
    return multiple(count, step)


def multiple(count: int, of: int) -> int:
    return -(-count // of) * of


def _build(bins: list[list[list[list[Span]]]], families: int, per_family: int, size: int, width: int) -> Pack:
    """The arrays of a pack from the bins of every prompt of every minibatch."""
    shape = (len(bins), families, per_family, size)
    row, at = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    lead, known = np.zeros(shape[:2], np.int32), np.zeros(shape[:2], np.int32)
    for m, group in enumerate(bins):
        pieces = [p[i : i + per_family] for p in group for i in range(0, len(p), per_family)]
        for family, piece in enumerate(pieces):
            first = piece[0][0]
            lead[m, family], known[m, family] = first.row, first.start - 1
            for k, members in enumerate(piece):
                place = 0
                for span in members:
                    end = place + span.end - span.start
                    row[m, family, k, place:end] = span.row
                    at[m, family, k, place:end] = np.arange(span.start, span.end)
                    place = end
    return Pack(lead, known, row, at, width)
