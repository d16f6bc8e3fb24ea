"""A rollout batch made while the device updates: sampled, verified and scored by the policy that the update starts from.

The batch is one optimizer step old when it is used. It is scored by the policy that sampled it, so old_logp is that policy's
and the ratios of the loss are the importance weights of being one step off.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import jax
import jax.numpy as jnp

from entjax.packing import Pack
from entjax.rollouts import Harvest
from entjax.step import TrainState
from entjax.types import Rollout


class Batch(NamedTuple):
    """Everything that one step of training needs."""

    harvest: Harvest
    rollout: Rollout  # scored
    places: Pack | None
    share: float  # of real tokens among those that are computed


class Ahead:
    """At most one batch in the making, beside the main thread."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "ahead")
        self._future: Future | None = None
        self._undo: Callable[[], None] = lambda: None

    def start(self, make: Callable[[], Batch], undo: Callable[[], None]) -> None:
        """Begin with a batch; `undo` takes back what making it does to the stream of prompts and to the memory."""
        self._future, self._undo = self._pool.submit(make), undo

    def wait(self) -> None:
        """Until the batch is made; its errors are raised here."""
        if self._future is not None:
            self._future.result()

    def take(self) -> Batch | None:
        """The batch, if one was begun."""
        future, self._future = self._future, None
        return None if future is None else future.result()

    def drop(self) -> None:
        """Forget the batch as if it had never been begun: a resumed run samples it anew."""
        if self._future is not None:
            self._future.exception()
            self._future = None
            self._undo()

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


def behaviour(state: TrainState) -> TrainState:
    """What sampling and scoring need of a state, in arrays of its own: an update takes over those of the state."""
    return jax.tree.map(jnp.copy, state.replace(opt_state=None))
