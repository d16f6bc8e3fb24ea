"""Which places a pass over the policy computes: a prompt once for all its completions, no padding, no logits of prompts.

A rollout keeps its rows [B, T]: everything that decides about tokens (the chains) works there. A Pack says where the model
computes them instead. A family is one prompt of W places and K bins of L places that hold completions, several in a bin where
they are short; F families are a piece, and pieces are computed one after another. `at[f, k, l]` is the index t of the token
that a place predicts; its input is the token before. So places stand on the tokens that the loss sees, and hidden states need
no shift. Losses and gradients are those of the rows. On a mesh every device has families of its own rows, so that no token
leaves its device; F counts those of all devices.

The pack of a batch is made on the host from its lengths. Only the number of pieces follows the batch from step to step, and
that is no shape: W, K, L and F are rounded, so that a run compiles a few programs, whatever its lengths do.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.sharding import NamedSharding
from jaxtyping import Array, Int

from entjax.models import DecoderConfig
from entjax.types import Rollout

MINIMUM_GAIN = 0.95  # of the cost of plain rows: what a pack must stay below to be worth a program of its own


class Grain(NamedTuple):
    """How finely a minibatch is cut. The last piece is half empty on average, so pieces should be many; but each reads all
    weights and adds to all gradients, which takes an accelerator as long as the arithmetic of some 300 places, and on a mesh
    each gathers the weights. A CPU has them small: they stay in its caches."""

    pieces: int  # that a minibatch would make without packing
    smallest: int  # places of a piece on one device


CPU, ACCELERATOR, MESH = Grain(32, 512), Grain(32, 4096), Grain(8, 4096)
KEEP = 1.1  # times the least cost: for this the shape of the batch before is taken again


@struct.dataclass
class Places:
    """The places of a piece: F families of a minibatch. A family without completions is filler. Rows are counted within the
    minibatch, on a mesh within the block of it that lies on the family's device.

    In a Pack every array has leading axes: minibatches M, pieces C.
    """

    lead: Int[Array, "*M_C F"]  # a row that begins with the prompt of the family
    known: Int[Array, "*M_C F"]  # tokens of the prompt that are computed there: all but the last
    row: Int[Array, "*M_C F K L"]
    at: Int[Array, "*M_C F K L"]  # 0: an empty place
    width: int = struct.field(pytree_node=False)  # W
    rows: NamedSharding | None = struct.field(pytree_node=False, default=None)  # of [B, T] arrays, on a mesh

    @property
    def size(self) -> int:
        """Places of one piece, empty ones included."""
        families, bins, length = self.row.shape[-3:]
        return families * (self.width + bins * length)

    def gather(self, tree: Any) -> Any:
        """[B, T, ...] leaves at their places, [F, K * L, ...]; other leaves stay. What empty places show is not zero."""
        take = lambda row, at, x: x[row, at]
        return jax.tree.map(
            lambda x: self._on_each_device(take, *self._flat(), x) if jnp.ndim(x) >= 2 else x, tree
        )

    def taken(self) -> Array:
        """[F, K * L]: the place holds a token."""
        return self._flat()[1] > 0

    def scatter(self, tree: Any, rows: Any) -> Any:
        """[F, K * L] leaves put into the [B, T] leaves of `rows`, which keep what has no place here."""

        def put(row: Array, at: Array, x: Array, into: Array) -> Array:
            outside = jnp.where(at > 0, row, into.shape[0])  # past the end: dropped
            return into.at[outside, at].set(x, mode="drop")

        return jax.tree.map(lambda x, into: self._on_each_device(put, *self._flat(), x, into), tree, rows)

    def hidden(self, model: Any, tokens: Int[Array, "B T"]) -> Array:
        """The policy's hidden states [F, K * L, D] that predict the tokens of the places."""
        before = jnp.maximum(self.at - 1, 0)
        look_up = lambda lead, row, before, tokens: (tokens[lead][:, : self.width], tokens[row, before])
        prompts, inputs = self._on_each_device(look_up, self.lead, self.row, before, tokens)
        segments = jnp.where(self.at > 0, self.row, -1)
        hidden = model.families(prompts, self.known, inputs, before, segments)
        return hidden.reshape(hidden.shape[0], -1, hidden.shape[-1])

    def _flat(self) -> tuple[Array, Array]:
        return tuple(x.reshape(x.shape[0], -1) for x in (self.row, self.at))

    def _on_each_device(self, f: Callable, *arrays: Array) -> Any:
        """f(*arrays): on a mesh, of every device's own families and rows."""
        if self.rows is None:
            return f(*arrays)
        spec = self.rows.spec
        return jax.shard_map(f, mesh=self.rows.mesh, in_specs=spec, out_specs=spec, check_vma=False)(*arrays)


@struct.dataclass
class Pack:
    """The places of M minibatches (consecutive optimizer steps), each in C pieces of one shape of which `count` are computed."""

    places: Places
    count: Int[Array, "*M"]

    @property
    def computed(self) -> int:
        """Places that the model computes, empty ones included."""
        return int(np.sum(self.count)) * self.places.size

    def minibatch(self, index: Any) -> Pack:
        return jax.tree.map(lambda x: x[index], self)

    def whole(self) -> Pack:
        """All minibatches as one, rows counted in the batch (minibatch m has the rows m, m + M, ...)."""
        minibatches, pieces = self.places.lead.shape[:2]
        number = jnp.arange(minibatches, dtype=jnp.int32)
        beside = lambda x: x * minibatches + number.reshape(-1, *[1] * (x.ndim - 1))
        places = self.places.replace(lead=beside(self.places.lead), row=beside(self.places.row))
        empty = jnp.arange(pieces) >= jnp.reshape(self.count, (-1, 1))
        order = jnp.argsort(empty.reshape(-1), stable=True)
        return Pack(jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[order], places), jnp.sum(self.count))

    def piece(self, index: Any) -> Places:
        """One piece of one minibatch."""
        return jax.tree.map(lambda x: x[index], self.places)

    def fold(self, f: Callable[[Places, Any], Any], start: Any) -> Any:
        """start <- f(piece, start) over the pieces of one minibatch, one after another."""
        return jax.lax.fori_loop(0, self.count, lambda i, found: f(self.piece(i), found), start)


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

    def families(self, count: int, width: int, bins: int, length: int) -> float:
        prompts = count * width * (1 + self.key * width)
        return prompts + count * bins * length * (1 + self.head + self.key * (width + length))


class Span(NamedTuple):
    row: int
    start: int  # index of the first sampled token
    end: int  # one past the last


class Planner:
    """From a rollout to its pack, or to None where plain rows cost as little.

    `bins`, of a family in the last pack, is its only state: the next batch keeps it where that costs little more, so that
    batches near a tie run one program. A run saves it with the rest.
    """

    def __init__(self, cost: Cost | None, **sizes: Any):
        """`cost` None: always plain rows; `sizes` are those of plan."""
        self.cost, self.sizes, self.bins = cost, sizes, 0

    def __call__(self, rollout: Rollout) -> Pack | None:
        if self.cost is None:
            return None
        pack = plan(rollout, self.cost, bins=self.bins, **self.sizes)
        self.bins = self.bins if pack is None else pack.places.row.shape[-2]
        return pack


def plan(
    rollout: Rollout,
    cost: Cost,
    *,
    minibatches: int = 1,
    microbatches: int = 1,
    rows: NamedSharding | None = None,
    bins: int = 0,
) -> Pack | None:
    """The cheapest pack for a rollout, or one with so many `bins` a family if it is nearly as cheap; None where plain rows cost
    as little. A piece is at most a `microbatches`th of the rows of a minibatch; `rows` says where these lie on a mesh."""
    tokens, mask = np.asarray(rollout.tokens), np.asarray(rollout.mask)
    batch, length = mask.shape
    devices = 1 if rows is None else batch // rows.shard_shape((batch,))[0]
    # What one device has of one minibatch; its rows are a block of the batch and of the minibatch.
    tokens, mask = (x.reshape(devices, -1, length) for x in (tokens, mask))
    shares = [_prompts(tokens[device, m::minibatches], mask[device, m::minibatches])
              for m in range(minibatches) for device in range(devices)]  # fmt: skip
    spans = [span for share in shares for members in share for span in members]
    if not spans or min(s.start for s in spans) == 0:  # nothing predicts a first token
        return None
    # Quarters, where rows have eighths: bins are filled anyway, and fewer programs are compiled where lengths vary.
    size = bucket(max(s.end - s.start for s in spans), 4)
    width = min(bucket(max(1, *(s.start - 1 for s in spans)), 4), length)
    filled = [[_fill(members, size) for members in share] for share in shares]
    grain = MESH if rows is not None else CPU if jax.default_backend() == "cpu" else ACCELERATOR
    whole = batch // (minibatches * devices) * (width + size)
    most = whole // microbatches
    places = min(max(grain.smallest, whole // grain.pieces), most)

    def shape(k: int) -> tuple[float, int, int]:
        """(cost, families of a piece on one device, bins of a family)."""
        families = max(1, min(places // (width + k * size), _most(shares, 1, k)))
        pieces = sum(_counts(filled, families, k, devices))
        return cost.families(pieces * families * devices, width, k, size), families, k

    powers = _powers(max(map(len, itertools.chain(*shares))))
    price, families, k = min(shape(k) for k in powers if k == 1 or width + k * size <= most)
    if bins in powers and shape(bins)[0] <= KEEP * price:
        price, families, k = shape(bins)
    if price > MINIMUM_GAIN * cost.rows(batch, length):
        return None
    # Room for the batch in which every completion fills a bin: as good as constant in a run, and only indices.
    capacity = _powers(_most(shares, families, k))[-1]
    count = np.array(_counts(filled, families, k, devices), np.int32)
    arrays = _arrays(filled, (capacity, families, k, size))
    beside = lambda x: np.moveaxis(x.reshape(minibatches, devices, *x.shape[1:]), 1, 2)
    join = lambda x: x.reshape(minibatches, capacity, devices * families, *x.shape[4:])
    return Pack(Places(*(join(beside(x)) for x in arrays), width, rows), count)


def _counts(shares: Sequence, families: int, k: int, devices: int) -> list[int]:
    """Pieces of each minibatch: those of the device that has most."""
    return [_most(shares[i : i + devices], families, k) for i in range(0, len(shares), devices)]


def _most(shares: Sequence[Sequence[Sequence]], families: int, k: int) -> int:
    """The most pieces of one share, if a family holds k of the bins (or completions) of a prompt."""
    return max(math.ceil(sum(math.ceil(len(bins) / k) for bins in share) / families) for share in shares)


def _powers(least: int) -> list[int]:
    """1, 2, 4 ... up to the first that is not below `least`."""
    return [1 << i for i in range((least - 1).bit_length() + 1)]


def plain_share(rollout: Rollout) -> float:
    """The share of real tokens among those that plain rows compute."""
    mask = np.asarray(rollout.mask)
    ends = np.where(mask.any(1), mask.shape[1] - mask[:, ::-1].argmax(1), 0)
    return float(ends.sum() / mask.size)


def share(pack: Pack) -> float:
    """The share of real tokens among the places that a pack computes."""
    at = np.asarray(pack.places.at)
    used = (at > 0).any((-1, -2))
    return float(((at > 0).sum() + (np.asarray(pack.places.known) * used).sum()) / pack.computed)


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


def bucket(length: int, parts: int = 8) -> int:
    """The compiled length for rows of up to `length` tokens: steps of 16, or of an eighth of the next power of two."""
    return multiple(length, max(16, (1 << (length - 1).bit_length()) // parts))


def multiple(count: int, of: int) -> int:
    return -(-count // of) * of


def _arrays(bins: list[list[list[list[Span]]]], shape: tuple[int, int, int, int]) -> tuple[np.ndarray, ...]:
    """lead, known, row, at of each share, in pieces of shape [C, F, K, L]."""
    capacity, families, k, size = shape
    everything = (len(bins), capacity * families, k, size)
    row, at = np.zeros(everything, np.int32), np.zeros(everything, np.int32)
    lead, known = np.zeros(everything[:2], np.int32), np.zeros(everything[:2], np.int32)
    for m, share in enumerate(bins):
        of_families = [p[i : i + k] for p in share for i in range(0, len(p), k)]
        for family, its_bins in enumerate(of_families):
            first = its_bins[0][0]
            lead[m, family], known[m, family] = first.row, first.start - 1
            for number, members in enumerate(its_bins):
                place = 0
                for span in members:
                    end = place + span.end - span.start
                    row[m, family, number, place:end] = span.row
                    at[m, family, number, place:end] = np.arange(span.start, span.end)
                    place = end
    in_pieces = lambda x: x.reshape(len(bins), capacity, families, *x.shape[2:])
    return tuple(map(in_pieces, (lead, known, row, at)))
