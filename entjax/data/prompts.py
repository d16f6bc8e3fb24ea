"""The stream of prompts of a run: shuffled anew each epoch, shared out among processes, and at an exact
position after a restart.

Batch k is a pure function of (source, seed, k): the stream keeps nothing but a count, which is its whole
checkpoint. Each process takes a contiguous block of every batch, so that the batch as a whole is the same for
any number of processes.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from entjax.tasks.task import Example, Task


class PromptStream:
    """`next()` gives the examples of the next batch; `state()` and `restore()` are the position as plain
    data.
    """

    def __init__(self, read: Callable[[int], Example], identity: dict[str, Any], share: _Share):
        self._read = read
        self._identity = identity
        self._share = share
        self._position = 0

    def next(self) -> list[Example]:
        """This process's examples of the next batch."""
        batch = self.at(self._position)
        self._position += self._share.batch
        return batch

    def take(self, count: int) -> list[Example]:
        """The next `count` examples, for a strategy that replaces prompts: the same on every process, and all must take them."""
        examples = [self._read(self._position + i) for i in range(count)]
        self._position += count
        return examples

    def at(self, position: int) -> list[Example]:
        """This process's examples of the batch that begins at prompt number `position` of all processes."""
        start, local = position + self._share.first, self._share.local
        return [self._read(index) for index in range(start, start + local)]

    def state(self) -> dict[str, Any]:
        """The position, with what it is a position in; values of JSON."""
        return {"position": self._position, **self._identity}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken; the batch size and the number of processes may have changed, the
        data may not.
        """
        other = {key: state.get(key) for key in self._identity}
        wrong = [
            f"{key} was {other[key]!r} and is {self._identity[key]!r}"
            for key in other
            if other[key] != self._identity[key]
        ]
        position = state.get("position")
        if wrong or not isinstance(position, int) or position < 0:
            what = "; ".join(wrong) or f"the position {position!r} is not a number of prompts"
            raise ValueError(
                f"The checkpoint's data position does not fit this run's data: {what}. Use that run's data."
            )
        self._position = position


class _Share(NamedTuple):
    """The block [first, first + local) of every batch that belongs to this process."""

    batch: int
    first: int
    local: int


def prompts(
    source: Task | Sequence[Example],
    *,
    seed: int = 0,
    batch: int,
    process_index: int = 0,
    process_count: int = 1,
) -> PromptStream:
    """Batches of `batch` examples (over all processes) of a task, of rows of files, or of a plain list.

    A finite source is shuffled by grain, differently in each epoch, and repeated for ever; epochs follow one
    another without a gap, so that no row is dropped. An endless task is read in its own order: its examples
    are independent draws already.
    """
    if batch < 1 or process_count < 1 or batch % process_count:
        raise ValueError(
            f"prompts(batch={batch}): the batch must be a positive multiple of the {process_count} processes."
        )
    if not 0 <= process_index < process_count:
        raise ValueError(
            f"prompts(process_index={process_index}): there are {process_count} processes, counted from 0."
        )
    if not 0 <= seed < 2**32:
        raise ValueError(f"prompts(seed={seed}): the seed must be between 0 and 2**32 - 1.")
    name, size, read = _reader(source)
    order = None if size is None else _shuffled(size, seed)

    def example(position: int) -> Example:
        return read(position if order is None else int(order[position]))

    local = batch // process_count
    # a task with another seed and a file with other rows have another first prompt
    identity = {"source": name, "size": size, "seed": seed, "first": zlib.crc32(read(0).prompt.encode())}
    return PromptStream(example, identity, _Share(batch, process_index * local, local))


def _shuffled(size: int, seed: int) -> Sequence[int]:
    """Row numbers by position, without end, every epoch in its own order."""
    import grain  # here: it takes a second, which `import entjax` shall not

    return grain.MapDataset.range(size).seed(seed).shuffle().repeat()


def _reader(source: Task | Sequence[Example]) -> tuple[str, int | None, Callable[[int], Example]]:
    if isinstance(source, Task):
        name, size, read = source.name, source.size, source.example
    else:
        name, size, read = getattr(source, "name", "list"), len(source), source.__getitem__
    if size == 0:
        raise ValueError(f"The data set {name} is empty: there is nothing to train on.")
    return name, size, read
