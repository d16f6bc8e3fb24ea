"""Conversations with an environment: every sample plays until its answer stands; nothing is branched.

Mask: the model's own tokens; what the environment says is outside it and has entropy and log-prob 0. Texts hold both, so a
verifier sees the whole trajectory. For advantages.empg, regularizers.epo and rewards.tool_use: see rollouts/environment.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from entjax.rollouts import environment as turns
from entjax.rollouts.environment import Environment
from entjax.rollouts.grown import Grown, grow_all
from entjax.rollouts.harvest import Harvest, Strategy, Tools, stateless
from entjax.tasks import Example


def multi_turn(environment: Environment) -> Strategy:
    """Plain groups of trajectories."""

    def collect(tools, examples, step, knobs) -> Harvest:
        return sample_turns(environment, tools, examples, 0)

    return stateless("multi_turn", collect, **in_world(environment, {}))


def sample_turns(
    environment: Environment, tools: Tools, examples: Sequence[Example], first_id: int
) -> Harvest:
    """`tools.samples` trajectories of every example."""

    def grow(tools: Tools, examples: Sequence[Example], numbers: np.ndarray) -> Grown:
        source = np.repeat(np.arange(len(examples)), tools.samples)
        names = numbers[source], np.tile(np.arange(tools.samples), len(examples))
        walk = turns.begin(tools, environment, examples, names, source)
        while any(track.open for track in walk.tracks):
            walk, _ = turns.play(tools, environment, walk)
        return turns.finish(tools, walk, numbers)

    harvest = grow_all(tools, examples, tools.samples, grow, first=first_id)
    calls = harvest.extra["tool_calls"]
    metrics = {
        **harvest.metrics,
        "turns/calls": float(calls.mean()),
        "turns/call_rate": float((calls > 0).mean()),
    }
    return harvest._replace(metrics=metrics)


def in_world(environment: Environment, hyper: Mapping[str, Any]) -> dict[str, Any]:
    """What a strategy declares that plays in an environment, which is one of its settings."""
    sample = lambda tools, examples, first_id: sample_turns(environment, tools, examples, first_id)
    hyper = {"environment": environment._asdict(), **hyper}
    return {"provides": turns.PROVIDES, "sample": sample, "hyper": hyper}
