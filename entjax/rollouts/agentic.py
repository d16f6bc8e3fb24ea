"""Agentic entropy-balanced rollouts, AEPO (arXiv 2510.14545): first look how uncertain a prompt is, then split its budget.

    m = clip(floor(n sigmoid(0.5 (H_root - H_tool))) + 1, 1, n)     trajectories start, n - m places are for branches
    branch iff clip((u + w dH) max(0, 1 - penalty c), 0, 1) >= p,  u uniform

H_root and H_tool are the segment entropies of one more trajectory: of its first turn, and the mean over its turns. c counts the
rounds in a row in which the prompt got a new row (a restart counts): with penalty 0.05 and p 0.5 branching is impossible from
c = 10 on. Rows and restarts as in arpo. Mask: the model's own tokens of the whole row, shared prefixes included.

Defaults (released script): beam 2, p 0.5, w 0.2, penalty 0.05, gain 0.5; with `monitor=False`, as the script has it, `initial`
trajectories start (6 of 12). The inequality is ARPO's turned round; both agree at p = 0.5 only. Differences: the probe is not
cut at 50 tokens; in the release a round in which no prompt of the batch got a row leaves every c as it is.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from entjax.rollouts import environment as turns
from entjax.rollouts.arpo import Plan, check, explore, randoms, segment_entropy
from entjax.rollouts.environment import Environment
from entjax.rollouts.grown import Grown, grow_all
from entjax.rollouts.harvest import Harvest, Strategy, Tools, stateless
from entjax.rollouts.multi_turn import in_world
from entjax.tasks import Example


def agentic(
    environment: Environment,
    *,
    monitor: bool = True,
    initial: int | None = None,
    beam: int = 2,
    probability: float = 0.5,
    weight: float = 0.2,
    penalty: float = 0.05,
    gain: float = 0.5,
) -> Strategy:
    """Entropy pre-monitoring, budget split and branch penalty."""
    check(initial, beam, probability, weight)
    if monitor and initial is not None:
        raise ValueError(
            f"agentic: the probe decides how many trajectories start; initial={initial} needs monitor=False."
        )
    if penalty < 0:
        raise ValueError(f"agentic needs penalty >= 0, got {penalty}.")

    def collect(tools, examples, step, knobs) -> Harvest:
        decide = lambda u, rise, streak: branches(u, rise, streak, weight, probability, penalty)
        start = tools.samples // 2 or 1 if initial is None else min(initial, tools.samples)

        def grow(tools: Tools, examples: Sequence[Example], numbers: np.ndarray) -> Grown:
            split, spent = np.full(len(examples), start), 0
            if monitor:
                root, tool, spent = probe(tools, environment, examples, numbers)
                split = initial_rollouts(root, tool, tools.samples, gain)
            plan = Plan(split, beam, decide, randoms(tools, step, numbers))
            grown = explore(tools, environment, examples, numbers, plan)
            counts = {**grown.counts, "initial": float(split.sum())}
            return grown.replace(computed=grown.computed + spent, counts=counts)

        return grow_all(tools, examples, tools.samples, grow)

    hyper = {"monitor": monitor, "initial": initial, "beam": beam, "probability": probability, "weight": weight,
             "penalty": penalty, "gain": gain}  # fmt: skip
    return stateless("agentic", collect, **in_world(environment, hyper))


def branches(u, rise, streak, weight: float, probability: float, penalty: float = 0.05) -> np.ndarray:
    """clip((u + w dH) max(0, 1 - penalty c), 0, 1) >= p."""
    damped = (u + weight * np.asarray(rise)) * np.maximum(0, 1 - penalty * np.asarray(streak))
    return np.clip(damped, 0, 1) >= probability


def initial_rollouts(root: np.ndarray, tool: np.ndarray, n: int, gain: float = 0.5) -> np.ndarray:
    """m: more independent trajectories where the prompt is less certain than what follows."""
    share = 1 / (1 + np.exp(-gain * (np.asarray(root) - np.asarray(tool))))
    return np.clip((n * share).astype(np.int64) + 1, 1, n)


def probe(
    tools: Tools, environment: Environment, examples: Sequence[Example], numbers: np.ndarray
) -> tuple[np.ndarray, np.ndarray, int]:
    """(H_root, H_tool) of every prompt from one trajectory that is thrown away, and its tokens."""
    rows = np.arange(len(examples))
    walk = turns.begin(tools, environment, examples, (numbers, np.full(len(rows), tools.samples)), rows)
    found: list[list[float]] = [[] for _ in rows]
    while any(track.open for track in walk.tracks):
        walk, done = turns.play(tools, environment, walk)
        for row, (start, end) in done.spans.items():
            found[row].append(
                segment_entropy(done.entropy[row, start:end], tools.stepper.sampler.config.vocab)
            )
    root, tool = np.array([h[0] for h in found]), np.array([np.mean(h) for h in found])
    return root, tool, walk.computed
