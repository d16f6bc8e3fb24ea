"""The batch of one step, sampled, verified, laid out and scored; with lag=1 it is made beside the update before it.

A batch made ahead is one optimizer step old when it is used. It is scored by the policy that sampled it, so old_logp is that
policy's, and the ratios of the loss are the importance weights of being one step off.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from entjax import distributed, packing
from entjax.packing import Pack, bucket, plain_share
from entjax.rollouts import Harvest, to_rollout
from entjax.rollouts.inputs import add_inputs
from entjax.setup import Parts
from entjax.step import TrainState
from entjax.types import Rollout


class Batch(NamedTuple):
    """Everything that one step of training needs, and what the strategy remembers after it."""

    harvest: Harvest
    given: Rollout  # as the strategy made it
    rollout: Rollout  # scored
    pack: Pack | None
    share: float  # of real tokens among those that are computed
    memory: dict[str, Any]
    seconds: float  # of the rollout


def make_batch(parts: Parts, state: TrainState, step: int, memory: Mapping[str, Any]) -> Batch:
    """By the policy of `state`; moves the stream of prompts on."""
    c, started = parts.config, time.perf_counter()
    knobs = knobs_of(state)
    temperature = knobs.get("temperature", c.temperature)
    with jax.profiler.TraceAnnotation("rollout"):
        tools = parts.tools(state.params, step, temperature=temperature, knobs=knobs)
        examples = distributed.examples(parts.stream.next())
        harvest, memory = parts.strategy.collect(tools, examples, step, knobs, dict(memory))
        harvest = add_inputs(harvest, parts.objective.needs, tools)
    seconds = time.perf_counter() - started
    given, pack = lay_out(parts, harvest, temperature)
    share = plain_share(given) if pack is None else packing.share(pack)
    return Batch(harvest, given, parts.score(state, given, pack), pack, share, memory, seconds)


def lay_out(parts: Parts, harvest: Harvest, temperature: float) -> tuple[Rollout, Pack | None]:
    """The rows of a batch and the pack that its passes compute. With a pack only the chains look at rows: these may be longer
    than what a model should compute, so that fewer lengths are compiled."""
    longest = int(harvest.completions.length.max())
    rows = lambda length: to_rollout(harvest, rows=parts.config.rows, length=length, temperature=temperature)
    given = rows(bucket(longest))
    pack = parts.plan(given)
    return (given, None) if pack is None else (rows(bucket(longest, 2)), pack)


class Ahead:
    """At most one batch in the making, on a thread of its own."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "ahead")
        self._future: Future[Batch] | None = None

    @property
    def busy(self) -> bool:
        """Is there a batch that a policy of the past has begun?"""
        return self._future is not None

    def start(self, parts: Parts, state: TrainState, step: int, memory: Mapping[str, Any]) -> None:
        """Begin with the batch of `step`. The policy is copied: an update takes over the arrays of its state."""
        policy = jax.tree.map(jnp.copy, state.replace(opt_state=None))
        self._future = self._pool.submit(make_batch, parts, policy, step, memory)

    def wait(self) -> None:
        """Until the batch is made; its errors are raised here."""
        if self._future is not None:
            self._future.result()

    def take(self) -> Batch | None:
        """The batch, if one was begun."""
        future, self._future = self._future, None
        return None if future is None else future.result()

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


def knobs_of(state: TrainState) -> dict[str, float]:
    """The scalars that transforms have set for the rollout; what nobody has set yet is not there."""
    knobs = {name: float(x) for name, x in jax.device_get(state.knobs).items()}
    return {name: value for name, value in knobs.items() if value == value}
