"""Recent-sample recovery (RSR, Confucius3-Math report): groups that dynamic sampling drew too many of go first in the next batch.

Rounds of prompts are sampled until `prompts` groups with different rewards are there, kept ones included, or `resample` more
rounds are over; a round after the first draws as many prompts as still miss, times `surplus` (with 1 there is never one too
many). The oldest groups are used first; what is left over is kept, without correction for the policy that sampled it
(Algorithm 1): the trainer recomputes old_logp.
Where groups are missing, uninformative ones of the newest round fill up. Mask: every sampled token.
"""

from __future__ import annotations

import math

import numpy as np

from entjax.rollouts.groups import informative, sample_groups
from entjax.rollouts.harvest import Harvest, Memory, Strategy, full_groups, join, pick, regroup, total
from entjax.rollouts.memory import from_harvest, inside, to_harvest, under


def recent_samples(*, resample: int = 3, surplus: float = 2.0) -> Strategy:
    """Dynamic sampling that wastes no informative group."""
    if resample < 0 or surplus < 1:
        raise ValueError(f"recent_samples needs resample >= 0 and surplus >= 1, got {resample}, {surplus}.")

    def collect(tools, examples, step, knobs, memory: Memory) -> tuple[Harvest, Memory]:
        wanted, samples = len(examples), tools.samples
        kept = to_harvest(inside(memory, "row")) if memory else None
        recovered = 0 if kept is None else len(kept.texts) // samples
        last = sample_groups(tools, examples, 0)
        reports = [last.report]
        pool = [kept] if kept is not None else []
        pool.append(pick(last, _rows(informative(last), samples)))
        drawn, rounds = wanted, 0
        while (missing := wanted - sum(len(p.texts) for p in pool) // samples) > 0 and rounds < resample:
            rounds += 1
            fresh = tools.draw(math.ceil(missing * surplus))
            last = sample_groups(tools, fresh, drawn)
            reports.append(last.report)
            drawn += len(fresh)
            pool.append(pick(last, _rows(informative(last), samples)))
        produced = sum(len(p.texts) for p in pool) // samples - recovered
        if missing > 0:
            flat = np.flatnonzero(~informative(last))[:missing]
            pool.append(pick(last, _rows(np.isin(np.arange(len(last.texts) // samples), flat), samples)))
        every = join([part for part in pool if len(part.texts)])._replace(report=total(reports))
        groups = np.repeat(np.arange(len(every.texts) // samples), samples)
        batch = pick(regroup(every, groups), np.flatnonzero(groups < wanted))
        left = pick(every, np.flatnonzero(groups >= wanted))
        metrics = {
            "sampling/prompts_drawn": float(drawn),
            "sampling/produced": float(produced),
            "sampling/recovered": float(min(recovered, wanted)),
            "sampling/kept": float(len(left.texts) // samples),
        }
        memory = under("row", from_harvest(left)) if len(left.texts) else {}
        return batch._replace(metrics=metrics), memory

    hyper = {"resample": resample, "surplus": surplus}
    return Strategy(
        "recent_samples", collect, full_groups, hyper=hyper, remembers="informative groups left over"
    )


def _rows(groups: np.ndarray, samples: int) -> np.ndarray:
    return np.flatnonzero(np.repeat(groups, samples))
