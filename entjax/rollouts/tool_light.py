"""Tool-Light's entropy-guided sampling (asilverlight/Tool-Light): branch the turns that begin most uncertainly.

    score of a turn = max over n in {10, 20, 30, 40, 50} of the mean entropy of its first min(n, length) tokens

One main chain plays to its end; the `steps` turns of highest score are left behind their n tokens (ties and short turns: the
smallest n), `branches` new chains each; fresh chains from the prompt fill up to `samples`. Defaults 3 steps, 3 branches (script;
argparse 4), top-p 0.8 and top-k 20 at temperature 1 (the run's `rules`). The paper filters the chains into pairs for DPO by rules
that are not in its repository; here they are the group. Mask: the model's own tokens of the whole row, shared prefixes included.

Difference: entropies are of the whole distribution, the release sums -p log p over the top 50.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from entjax.rollouts import environment as turns
from entjax.rollouts.environment import Environment, Track, Walk
from entjax.rollouts.grown import Grown, by_group, grow_all
from entjax.rollouts.harvest import Harvest, Strategy, Tools, merge, stateless
from entjax.rollouts.multi_turn import in_world
from entjax.tasks import Example

COUNTS = (10, 20, 30, 40, 50)


def tool_light(
    environment: Environment, *, steps: int = 3, branches: int = 3, counts: Sequence[int] = COUNTS
) -> Strategy:
    """One chain, branches at its most uncertain turns, fresh chains for the rest of the group."""
    if steps < 0 or branches < 1 or not counts or min(counts) < 1:
        raise ValueError(
            f"tool_light needs steps >= 0, branches >= 1 and counts >= 1, got {steps}, {branches}, {tuple(counts)}."
        )

    def collect(tools, examples, step, knobs) -> Harvest:
        return grow_all(tools, examples, tools.samples, grow)

    def grow(tools: Tools, examples: Sequence[Example], numbers: np.ndarray) -> Grown:
        every, n = np.arange(len(examples)), tools.samples
        walk = turns.begin(tools, environment, examples, (numbers, 0 * every), every)
        found: list[list[np.ndarray]] = [[] for _ in every]
        while any(track.open for track in walk.tracks):
            walk, done = turns.play(tools, environment, walk)
            for row, (start, end) in done.spans.items():
                found[row].append(done.entropy[row, start:end])
        main = turns.finish(tools, walk, numbers)
        if n == 1:
            return main
        points = [
            _points(track, h, steps, branches, counts)[: n - 1]
            for track, h in zip(walk.tracks, found, strict=True)
        ]
        fresh = [
            Track(track.example, environment.reset(examples[track.example]), track.spans[0][0])
            for track in walk.tracks
        ]
        plans = [
            p
            for row in every
            for p in points[row] + [(fresh[row].start, fresh[row])] * (n - 1 - len(points[row]))
        ]
        rest = _continue(tools, environment, walk, plans, numbers)
        extra = {name: np.concatenate([x, rest.extra[name]]) for name, x in main.extra.items()}
        extra["trajectory"] = int(numbers[0]) * 4096 + np.arange(len(extra["trajectory"]), dtype=np.int32)
        both = Grown(merge([main.completions, rest.completions]), rest.computed, extra)
        return by_group(both.replace(counts={"branches": float(sum(map(len, points)))}))

    hyper = {"steps": steps, "branches": branches, "counts": tuple(counts)}
    return stateless("tool_light", collect, **in_world(environment, hyper))


def score(entropy: np.ndarray, counts: Sequence[int] = COUNTS) -> tuple[float, int]:
    """(the largest mean entropy of the first n tokens, the smallest n that has it)."""
    means = [float(np.mean(entropy[:n])) if len(entropy) else 0.0 for n in counts]
    best = int(np.argmax(means))
    return means[best], counts[best]


def branch_steps(scores: Sequence[float], steps: int) -> list[int]:
    """The turns of highest score, best first."""
    return np.argsort(-np.asarray(scores), kind="stable")[:steps].tolist()


def _points(
    track: Track, entropies: Sequence[np.ndarray], steps: int, branches: int, counts
) -> list[tuple[int, Track]]:
    """(length to go back to, the track there), best turn first, each `branches` times."""
    scored = [score(h, counts) for h in entropies]
    out = []
    for turn in branch_steps([s for s, _ in scored], steps):
        start, end, world = track.spans[turn]
        at = min(start + scored[turn][1], end - 1)  # at least the turn's last token is drawn again
        back = Track(track.example, world, start, track.spans[:turn], turn)
        out += [(at, back)] * branches
    return out


def _continue(tools: Tools, environment: Environment, walk: Walk, plans: list, numbers: np.ndarray) -> Grown:
    """Rows that go on from `plans`, played to their ends."""
    stepper, tracks = tools.stepper, [track for _, track in plans]
    owner = np.array([track.example for track in tracks])
    per_prompt = len(plans) // len(numbers)
    names = numbers[owner], 1 + np.arange(len(plans)) % per_prompt
    at = np.array([length for length, _ in plans])
    limit = walk.limit[owner]
    state = stepper.reopen(stepper.fork(walk.state, owner, at, names), np.ones(len(plans), bool), limit)
    walk = Walk(state, tracks, limit, walk.computed)
    while any(track.open for track in walk.tracks):
        walk, _ = turns.play(tools, environment, walk)
    return turns.finish(tools, walk, numbers)
