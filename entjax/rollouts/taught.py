"""Text of a teacher: a share of the prompts is answered with its weights ("Decoupling KL and Trajectories", 2605.16826).

Which model writes the trajectories is one axis of distillation, the direction of the KL the other (recipes.distill): share 0 is
on-policy, share 1 the teacher's text, between them the two are mixed by prompts. The run needs `teacher=` in its config. log-prob
and entropy of a taught row are the teacher's; the scoring pass adds the student's old_logp. Mask: every sampled token.
"""

from __future__ import annotations

from entjax.rollouts.groups import groups
from entjax.rollouts.harvest import Harvest, Memory, Strategy, as_strategy, join, regroup


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
        count = round(share * len(examples))
        parts = []
        if count:
            found, memory = inner.collect(tools.teacher, examples[:count], step, knobs, memory)
            parts.append(found)
        if count < len(examples):
            found, memory = inner.collect(tools, examples[count:], step, knobs, memory)
            # More ids than `count` are taken where `inner` has drawn prompts again.
            taken = int(parts[0].completions.group.max()) + 1 if parts else 0
            parts.append(regroup(found, found.completions.group + taken))
        metrics = {**parts[-1].metrics, "taught/share": count / len(examples)}
        return join(parts)._replace(metrics=metrics), memory

    hyper = {"share": share, "inner": inner}
    return inner._replace(name="taught", collect=collect, hyper=hyper)
