"""Evaluation: many samples of fixed held-out prompts -> avg@k, unbiased pass@k, maj@k, diversity, entropy, lengths."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from entjax.analysis.passk import avg_at_k, majority, pass_at_k
from entjax.rollouts.groups import sample_groups
from entjax.rollouts.harvest import Harvest, Tools
from entjax.tasks import Example
from entjax.tasks.scoring import canonical_of

if TYPE_CHECKING:
    from entjax.setup import Parts
    from entjax.tasks.scoring import Watch


def evaluate_run(parts: Parts, params: Any, watch: Watch) -> dict[str, float]:
    """`evaluate` on the held-out prompts of a run, as its config says, with an eye on its verifier."""
    c = parts.config
    tools = parts.tools(params, 0, samples=c.eval_samples, temperature=c.eval_temperature, held_out=True)
    tools = tools._replace(score=watch.watched(tools.score, "evaluation"))
    return evaluate(
        tools, parts.eval_examples, c.eval_k, canonical_of(parts.eval_task), parts.strategy.sample
    )


def evaluate(
    tools: Tools,
    examples: Sequence[Example],
    ks: Sequence[int],
    canonical: Callable | None = None,
    sample: Callable[..., Harvest] | None = None,
) -> dict[str, float]:
    """Metrics under "eval/", averaged over the examples; `tools.samples` completions of each, made by `sample` (Strategy.sample)
    where an environment answers. "eval/verifier_failed", the share of answers without a verdict, is there when it is not 0."""
    harvest = (sample or sample_groups)(tools, examples, 0)
    metrics = summarize(harvest, tools.samples, ks, canonical)
    if "tool_calls" in harvest.extra:
        metrics["eval/call_rate"] = float(np.mean(harvest.extra["tool_calls"] > 0))
    if harvest.report.failed:
        metrics["eval/verifier_failed"] = harvest.report.failed / len(harvest.texts)
    return metrics


def summarize(
    harvest: Harvest, samples: int, ks: Sequence[int], canonical: Callable | None = None
) -> dict[str, float]:
    """The metrics of a harvest whose groups have `samples` rows each, next to each other. An answer is right at reward 1."""
    right = (harvest.reward >= 1.0).reshape(-1, samples)
    c = harvest.completions
    mask = c.mask
    metrics = {
        "eval/reward": float(np.mean(harvest.reward)),
        f"eval/avg@{samples}": float(np.mean(avg_at_k(right))),
        "eval/entropy": float(c.entropy[mask].mean()) if mask.any() else 0.0,
        "eval/length": float(mask.sum(1).mean()),
        "eval/truncated": float(np.mean(~c.finished)),
    }
    for k in ks:
        metrics[f"eval/pass@{k}"] = float(np.mean(pass_at_k(samples, right.sum(1), k)))
    if canonical is not None:
        answers = [canonical(e, t) for e, t in zip(harvest.examples, harvest.texts, strict=True)]
        grouped = [answers[i : i + samples] for i in range(0, len(answers), samples)]
        metrics[f"eval/maj@{samples}"] = float(
            np.mean([_majority_is_right(a, r) for a, r in zip(grouped, right, strict=True)])
        )
        distinct = [
            len({a for a, ok in zip(row, r, strict=True) if ok})
            for row, r in zip(grouped, right, strict=True)
        ]
        metrics["eval/distinct_correct"] = float(np.mean(distinct))
    return metrics


def _majority_is_right(answers: Sequence, right: np.ndarray) -> bool:
    """Is the most frequent answer (the first of them on a tie) a right one?"""
    winner = majority(answers)
    return winner is not None and bool(right[list(answers).index(winner)])
