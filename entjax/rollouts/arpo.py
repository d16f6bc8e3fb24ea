"""ARPO: branch a trajectory after a tool call whose turn was more uncertain than the first (RUC-NLPIR/ARPO).

    H_seg = sum over the first 20 tokens of the turn of H_t / ln V,   dH = H_seg - H_seg of this row's first turn
    branch iff clip(u - w dH, 0, 1) <= p,  u uniform:   P(branch) = clip(p + w dH, 0, 1)

`samples` is the budget n of a prompt, `initial` trajectories start. After the replies of a round every open trajectory tries
min(beam - 1, free places) times; the copy goes on from the reply with random numbers of its own. A prompt none of whose
trajectories is open and that has free places starts one more from its root each round. Mask: the model's own
tokens of the whole row; a shared prefix is in the loss of every row that holds it ("soft" advantage attribution).

Defaults: initial n // 2, beam 2, p 0.5, w 0.2 (script; the yaml has 1, 1, 0.5, 0.5). Differences: H_t is the full entropy, the
release sums what the ten likeliest tokens contribute; the first H_seg belongs to this rollout, not to a table that is never
cleared. Without tools, `silent(",")` makes steps of a text the turns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from entjax.rollouts import environment as turns
from entjax.rollouts.environment import Environment, Track, Walk
from entjax.rollouts.grown import Grown, by_group, grow_all
from entjax.rollouts.harvest import Harvest, Strategy, Tools, stateless
from entjax.rollouts.multi_turn import in_world
from entjax.rollouts.stepper import FREE
from entjax.tasks import Example

WIDTH = 20  # tokens of a turn that its entropy looks at


def arpo(
    environment: Environment,
    *,
    initial: int | None = None,
    beam: int = 2,
    probability: float = 0.5,
    weight: float = 0.2,
) -> Strategy:
    """Branches where the entropy has risen since the first turn."""
    check(initial, beam, probability, weight)

    def collect(tools, examples, step, knobs) -> Harvest:
        decide = lambda u, rise, streak: branches(u, rise, weight, probability)
        start = tools.samples // 2 or 1 if initial is None else min(initial, tools.samples)

        def grow(tools: Tools, examples: Sequence[Example], numbers: np.ndarray) -> Grown:
            plan = Plan(np.full(len(examples), start), beam, decide, randoms(tools, step, numbers))
            return explore(tools, environment, examples, numbers, plan)

        return grow_all(tools, examples, tools.samples, grow)

    hyper = {"initial": initial, "beam": beam, "probability": probability, "weight": weight}
    return stateless("arpo", collect, **in_world(environment, hyper))


def check(initial: int | None, beam: int, probability: float, weight: float) -> None:
    """Refuse settings that mean nothing."""
    if (initial is not None and initial < 1) or beam < 1:
        raise ValueError(f"initial and beam must be at least 1, got initial={initial}, beam={beam}.")
    if not 0 <= probability <= 1 or weight < 0:
        raise ValueError(
            f"probability lies in [0, 1] and weight is >= 0, got probability={probability}, weight={weight}."
        )


def branches(u, rise, weight: float, probability: float) -> np.ndarray:
    """clip(u - w dH, 0, 1) <= p."""
    return np.clip(u - weight * np.asarray(rise), 0, 1) <= probability


def segment_entropy(entropy: np.ndarray, vocab: int) -> float:
    """H_seg of the entropies of one turn; 0 for an empty one. A sum, so longer turns (up to 20 tokens) have more."""
    return float(np.sum(entropy[:WIDTH]) / np.log(vocab))


class Plan(NamedTuple):
    """How a block of prompts is explored. decide(u, dH, rounds in a row in which this prompt got a row) -> branch?"""

    initial: np.ndarray  # [prompts]
    beam: int
    decide: Callable[[float, float, int], Any]
    random: list[np.random.Generator]  # one a prompt: what a prompt does not depend on who is in its block


def randoms(tools: Tools, step: int, numbers: np.ndarray) -> list[np.random.Generator]:
    """Random numbers for each prompt."""
    return [tools.random(step, int(number)) for number in numbers]


def explore(
    tools: Tools, environment: Environment, examples: Sequence[Example], numbers: np.ndarray, plan: Plan
) -> Grown:
    """`tools.samples` trajectories of every example, some of them branches of others."""
    n, prompts = tools.samples, len(examples)
    slot = np.tile(np.arange(n), prompts)
    owner = np.repeat(np.arange(prompts), n)
    source = np.where(slot < np.asarray(plan.initial)[owner], owner, FREE)
    names = numbers[owner], slot
    walk = turns.begin(tools, environment, examples, names, source)
    first: dict[int, float] = {}
    streak = np.zeros(prompts, np.int64)
    counts = {"branches": 0.0, "restarts": 0.0}
    vocab = tools.stepper.sampler.config.vocab
    while any(track is not None and track.open for track in walk.tracks):
        walk, done = turns.play(tools, environment, walk)
        rise = {}
        for row, (start, end) in done.spans.items():
            now = segment_entropy(done.entropy[row, start:end], vocab)
            rise[row] = now - first.setdefault(row, now)
        parent = _branch(walk.tracks, rise, owner, plan, streak)
        roots = _restart(walk.tracks, parent, owner)
        got = (
            np.bincount(owner[[*parent, *roots]], minlength=prompts)
            if parent or roots
            else np.zeros(prompts, int)
        )
        streak = np.where(got > 0, streak + 1, 0)
        counts["branches"] += len(parent)
        counts["restarts"] += len(roots)
        walk = _seat(tools, environment, examples, walk, names, (parent, roots, owner))
    return by_group(turns.finish(tools, walk, numbers).replace(counts=counts))


def _branch(
    tracks: Sequence[Track | None], rise: dict, owner: np.ndarray, plan: Plan, streak: np.ndarray
) -> dict[int, int]:
    """{free row: row to copy}, tried in the order of the rows."""
    parent: dict[int, int] = {}
    for row, track in enumerate(tracks):
        if track is None or not track.open or row not in rise:
            continue
        free = [r for r in np.flatnonzero(owner == owner[row]) if tracks[r] is None and int(r) not in parent]
        for place in free[: plan.beam - 1]:
            u = float(plan.random[owner[row]].uniform())
            if plan.decide(u, rise[row], int(streak[owner[row]])):
                parent[int(place)] = row
    return parent


def _restart(tracks: Sequence[Track | None], parent: dict[int, int], owner: np.ndarray) -> list[int]:
    """A free row of each prompt of which nothing is open."""
    rows = []
    for prompt in np.unique(owner):
        mine = np.flatnonzero(owner == prompt)
        free = [int(r) for r in mine if tracks[r] is None and int(r) not in parent]
        if free and not any(tracks[r] is not None and tracks[r].open for r in mine):
            rows.append(free[0])
    return rows


def _seat(tools: Tools, environment: Environment, examples, walk: Walk, names, new) -> Walk:
    """The walk with its new rows: copies of their parents, or fresh starts at the prompt."""
    parent, roots, owner = new
    if not parent and not roots:
        return walk
    stepper, tracks, limit = tools.stepper, list(walk.tracks), walk.limit.copy()
    _, length, _ = stepper.rows(walk.state)
    rows, keep = np.arange(len(tracks)), np.array(length[: len(tracks)])
    for row, source in parent.items():
        tracks[row], rows[row], keep[row] = tracks[source], source, length[source]
    for row in roots:
        model = int(np.flatnonzero(owner == owner[row])[0])  # the first row of a prompt is always in use
        start = tracks[model].spans[0][0]
        world = environment.reset(examples[owner[row]])
        tracks[row], rows[row], keep[row] = Track(int(owner[row]), world, start), model, start
    limit[[*parent, *roots]] = limit[rows[[*parent, *roots]]]
    state = stepper.fork(walk.state, rows, keep, names)
    running = np.array([track is not None and track.open for track in tracks])
    return Walk(stepper.reopen(state, running, limit), tracks, limit, walk.computed)
