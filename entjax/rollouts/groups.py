"""Plain groups: every prompt is sampled G times (GRPO); with `resample`, groups whose rewards are all equal are drawn again.

Dynamic sampling (DAPO, arXiv 2503.14476): a group in which everything is right or everything is wrong has no advantage. It is
replaced by a group of a fresh prompt, at most `resample` times; then it stays, and its advantage is 0. Mask: every sampled token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from entjax.rollouts.harvest import Harvest, Strategy, Tools, join, pick, stateless
from entjax.tasks import Example


def groups(*, resample: int = 0) -> Strategy:
    """The strategy of GRPO (resample=0) and DAPO."""
    if resample < 0:
        raise ValueError(f"resample must be at least 0, got {resample}.")

    def collect(tools: Tools, examples: Sequence[Example], step: int, knobs: Mapping[str, Any]) -> Harvest:
        harvest = sample_groups(tools, examples, 0)
        drawn, rounds = len(examples), 0
        while rounds < resample and not informative(harvest).all():
            rounds += 1
            keep = informative(harvest)
            fresh = tools.draw(int((~keep).sum()))
            more = sample_groups(tools, fresh, drawn)
            drawn += len(fresh)
            harvest = join([pick(harvest, np.flatnonzero(np.repeat(keep, tools.samples))), more])
        metrics = (
            {"sampling/prompts_drawn": float(drawn), "sampling/rounds": float(rounds)} if resample else {}
        )
        return harvest._replace(metrics=metrics)

    return stateless("groups", collect, hyper={"resample": resample})


def sample_groups(tools: Tools, examples: Sequence[Example], first_id: int, **how: Any) -> Harvest:
    """`tools.samples` completions of every example with their rewards; prompts are numbered from `first_id`."""
    prompts = [tools.encode(example) for example in examples]
    ids = list(range(first_id, first_id + len(prompts)))
    completions = tools.generate(prompts, samples=tools.samples, prompt_ids=ids, **how)
    texts = [tools.decode(completions.completion(row)) for row in range(len(completions.length))]
    repeated = [example for example in examples for _ in range(tools.samples)]
    reward, report = tools.score(repeated, texts)
    return Harvest(completions, repeated, texts, reward, report)


def informative(harvest: Harvest) -> np.ndarray:
    """Per group, in the order of first appearance: do its rewards differ? A group of one is compared with others and counts."""
    group = harvest.completions.group
    rewards = [harvest.reward[group == g] for g in dict.fromkeys(group.tolist())]
    return np.array([len(r) == 1 or np.ptp(r) > 0 for r in rewards])
