"""Prompt augmentation (wenquanlu/prompt-augmentation-GRPO): every prompt of a batch is asked through a template drawn at random.

    template uniform over the list, one for the whole group;   R = right + format,   format in [0, 1]

The group shares its template, so group-relative advantages compare like with like. format = the share of the template's tags
that occur exactly once in the answer; 1 for a template without tags, where it cancels. `tags=0` leaves it out (default weight 1).
Held-out prompts stay as they are; the release draws templates for them too. Mask: as `inner` makes it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from entjax.rollouts.groups import groups
from entjax.rollouts.harvest import Harvest, Memory, Strategy, Tools, as_strategy
from entjax.tasks import Example

SLOT = "{prompt}"


class Template(NamedTuple):
    """A text with {prompt} in it, and the tags that an answer to it should hold once each."""

    text: str
    tags: tuple[str, ...] = ()


MATH = (
    Template("{prompt}"),
    Template("{prompt}\nReason step by step, then give the result inside \\boxed{}."),
    Template("Problem: {prompt}\nSolution:"),
    Template("{prompt}\nCheck your result before you state it as: The answer is ..."),
    Template(
        "{prompt}\nThink between <think> and </think>, answer between <answer> and </answer>.",
        ("<think>", "</think>", "<answer>", "</answer>"),
    ),
)


def augmentation(
    templates: Sequence[Template | str] = MATH, inner: Strategy | None = None, *, tags: float = 1.0
) -> Strategy:
    """`inner` (plain groups by default) on prompts in templates."""
    known = tuple(Template(t) if isinstance(t, str) else t for t in templates)
    bad = [t.text for t in known if t.text.count(SLOT) != 1]
    if not known or bad:
        raise ValueError(f"Every template needs {SLOT} once; got {bad[0] if bad else 'no template'!r}.")
    inner = groups() if inner is None else as_strategy(inner)

    def collect(tools, examples, step, knobs, memory: Memory) -> tuple[Harvest, Memory]:
        random, tags_of = tools.random(step, 0xA06), {}
        seen: dict[str, list[float]] = {"format": [], "right": []}

        def ask(fresh: Sequence[Example]) -> list[Example]:
            chosen = [known[i] for i in random.integers(len(known), size=len(fresh))]
            asked = [
                e._replace(prompt=t.text.replace(SLOT, e.prompt)) for e, t in zip(fresh, chosen, strict=True)
            ]
            tags_of.update({e.prompt: t.tags for e, t in zip(asked, chosen, strict=True)})
            return asked

        def score(judge: Callable, examples: Sequence[Example], texts: Sequence[str]):
            right, report = judge(examples, texts)
            formed = [
                share_of_tags(t, tags_of.get(e.prompt, ())) for e, t in zip(examples, texts, strict=True)
            ]
            seen["format"] += formed
            seen["right"] += np.asarray(right, np.float64).tolist()
            return np.asarray(right, np.float32) + np.float32(tags) * np.asarray(formed, np.float32), report

        def in_templates(tools: Tools) -> Tools:
            """Whatever `inner` draws and scores, also with the teacher."""
            return tools._replace(
                draw=lambda count: ask(tools.draw(count)),
                score=functools.partial(score, tools.score),
                teacher=tools.teacher and in_templates(tools.teacher),
            )

        harvest, memory = inner.collect(in_templates(tools), ask(examples), step, knobs, memory)
        metrics = {f"augmentation/{name}": float(np.mean(values)) for name, values in seen.items() if values}
        return harvest._replace(metrics={**harvest.metrics, **metrics}), memory

    hyper = {"templates": known, "inner": inner, "tags": tags}
    return inner._replace(name="augmentation", collect=collect, hyper=hyper)


def share_of_tags(text: str, tags: Sequence[str]) -> float:
    """The share of the tags that occur exactly once; 1 without tags."""
    return float(np.mean([text.count(tag) == 1 for tag in tags])) if tags else 1.0
