"""Text of a teacher: a share of the prompts is answered with its weights ("Decoupling KL and Trajectories", 2605.16826).

Which model writes the trajectories is one axis of distillation, the direction of the KL the other (recipes.distill): share 0 is
on-policy, share 1 the teacher's text, between them the two are mixed by prompts. The run needs `teacher=` in its config. log-prob
and entropy of a taught row are the teacher's; the scoring pass adds the student's old_logp. Mask: every sampled token.
"""

from __future__ import annotations

import numpy as np

from entjax.rollouts.groups import groups
from entjax.rollouts.harvest import Harvest, Memory, Strategy, as_strategy, join, regroup
from entjax.rollouts.memory import inside, under


def taught(share: float = 1.0, inner: Strategy | None = None) -> Strategy:
    """The first `share` of every batch's prompts goes to the teacher, sampled by `inner` (plain groups by default)."""
    if not 0 <= share <= 1:
        raise ValueError(f"taught needs 0 <= share <= 1, got {share}.")
    inner = groups() if inner is None else as_strategy(inner)

    def collect(tools, examples, step, knobs, memory: Memory) -> tuple[Harvest, Memory]:
        if tools.teacher is None:
            raise ValueError(
                "taught() lets a teacher write and there is none: set teacher=FOLDER in the config."
            )
        count = taught_of(len(examples))
        parts, kept = [], {}
        for who, writer, mine in (
            ("teacher", tools.teacher, examples[:count]),
            ("student", tools, examples[count:]),
        ):
            if mine:
                found, now = inner.collect(writer, mine, step, knobs, inside(memory, who))
                parts.append(_behind(parts[-1], found) if parts else found)
                kept |= under(who, now)
        metrics = {**parts[-1].metrics, "taught/share": count / len(examples)}
        return join(parts)._replace(metrics=metrics), kept

    def taught_of(prompts: int) -> int:
        return round(share * prompts)

    def rows(prompts: int, samples: int) -> int:
        parts = (taught_of(prompts), prompts - taught_of(prompts))
        return sum(inner.rows(part, samples) for part in parts if part)

    hyper = {"share": share, "inner": inner}
    start = {**under("teacher", inner.start), **under("student", inner.start)}
    return inner._replace(name="taught", collect=collect, rows=rows, start=start, hyper=hyper)


def _behind(first: Harvest, second: Harvest) -> Harvest:
    """The second with ids of groups and trajectories that begin where those of the first end."""
    move = lambda ids, taken: np.asarray(ids + (taken.max(initial=-1) + 1), np.int32)
    second = regroup(second, move(second.completions.group, first.completions.group))
    if "trajectory" not in second.extra:
        return second
    ids = move(second.extra["trajectory"], first.extra["trajectory"])
    return second._replace(extra={**second.extra, "trajectory": ids})
