"""TTRL's rollout: N answers vote for the label, the first n of them are trained on (arXiv 2504.16084).

    y = most frequent readable answer of N,   R_j = 1[a_j = y] for the first n = samples rows

A missing answer never votes, earns 0, and counts in the majority ratio's denominator; ties go to the answer that came first; with
no readable answer all rewards are 0. The reward of the harvest is the vote's, not the verifier's, so that labels are never
used: take an objective without rewards.majority_vote (that one votes among the rows of the batch, which is the same thing
when N = n). The metrics vote/* compare with the verifier. Default N 64. Mask: every sampled token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from entjax.rollouts.groups import sample_groups
from entjax.rollouts.harvest import Harvest, Strategy, pick, stateless


class Count(NamedTuple):
    """The outcome of one vote."""

    label: str | None
    ratio: float
    reward: np.ndarray  # [N], 1 for those that agree


def count(answers: Sequence[str | None]) -> Count:
    """The majority among N answers."""
    tally: dict[str, int] = {}
    for answer in answers:
        if answer is not None:
            tally[answer] = tally.get(answer, 0) + 1
    label = max(tally, key=tally.__getitem__) if tally else None  # the first of equals
    agrees = np.array([label is not None and answer == label for answer in answers], np.float32)
    return Count(label, float(agrees.mean()), agrees)


def votes(voters: int = 64) -> Strategy:
    """`voters` answers vote, the first `samples` are kept."""
    if voters < 1:
        raise ValueError(f"votes needs at least one voter, got {voters}.")

    def collect(tools, examples, step, knobs) -> Harvest:
        keep = tools.samples
        if voters < keep:
            raise ValueError(f"samples={keep}: of {voters} voters no more can be kept; raise voters.")
        every = sample_groups(tools._replace(samples=voters), examples, 0)
        answers = [tools.canonical(e, t) for e, t in zip(every.examples, every.texts, strict=True)]
        results = [count(answers[i : i + voters]) for i in range(0, len(answers), voters)]
        voted = np.concatenate([result.reward for result in results])
        truth = every.reward > 0.5
        rows = np.arange(len(answers))
        of_prompt = lambda x: x.reshape(-1, voters)
        metrics = {
            "vote/majority_ratio": float(np.mean([result.ratio for result in results])),
            "vote/label_accuracy": float(np.mean(of_prompt((voted > 0) & truth).any(1))),
            "vote/reward_accuracy": float(np.mean((voted > 0) == truth)),
            "vote/pass": float(np.mean(of_prompt(truth).any(1))),
        }
        kept = pick(every._replace(reward=voted), rows[rows % voters < keep])
        return kept._replace(metrics={**every.metrics, **metrics})

    return stateless("votes", collect, hyper={"voters": voters})
