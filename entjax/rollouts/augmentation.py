"""Prompt augmentation (wenquanlu/prompt-augmentation-GRPO): every prompt of a batch is asked through a template drawn at random.

    template uniform over the list, one for the whole group;   R = right + format,   format in [0, 1]

The group shares its template, so group-relative advantages compare like with like. format = the share of the template's tags
that occur exactly once in the answer; 1 for a template without tags, where it cancels. `tags=0` leaves it out (default weight 1).
Held-out prompts stay as they are; the release draws templates for them too. Mask: as `inner` makes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from entjax.rollouts.groups import groups
from entjax.rollouts.harvest import Harvest, Memory, Strategy, as_strategy

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
        chosen = tools.random(step, 0xA06).integers(len(known), size=len(examples))
        asked = [
            e._replace(prompt=known[i].text.replace(SLOT, e.prompt))
            for e, i in zip(examples, chosen, strict=True)
        ]
        harvest, memory = inner.collect(tools, asked, step, knobs, memory)
        of = {example.prompt: known[i] for example, i in zip(asked, chosen, strict=True)}
        formed = [
            share_of_tags(text, of.get(e.prompt, Template(SLOT)).tags)
            for e, text in zip(harvest.examples, harvest.texts, strict=True)
        ]
        reward = np.asarray(harvest.reward, np.float32) + np.float32(tags) * np.asarray(formed, np.float32)
        metrics = {
            **harvest.metrics,
            "augmentation/format": float(np.mean(formed)),
            "augmentation/right": float(np.mean(harvest.reward)),
        }
        return harvest._replace(reward=reward, metrics=metrics), memory

    hyper = {"templates": known, "inner": inner, "tags": tags}
    return inner._replace(name="augmentation", collect=collect, hyper=hyper)


def share_of_tags(text: str, tags: Sequence[str]) -> float:
    """The share of the tags that occur exactly once; 1 without tags."""
    return float(np.mean([text.count(tag) == 1 for tag in tags])) if tags else 1.0
