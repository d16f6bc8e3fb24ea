"""A run before and after, on one page: its curves, greedy answers of both ends, and the exported folder asked by transformers.

    entjax export WORKDIR FOLDER
    python -m entjax.studies.before_after WORKDIR FOLDER [--name smollm2] [--docs docs]

writes DOCS/NAME.json, DOCS/NAME.md and DOCS/images/NAME.png.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from entjax.commands import restored
from entjax.log import read_lines
from entjax.plots import panels
from entjax.setup import Parts
from entjax.studies.exported import compare, own_answers, their_answers

SHOWN = 10  # questions whose two answers are printed
KEPT = ("pass@1", "pass@4", "entropy", "length", "truncated")


def gather(parts: Parts, params, folder: Path, lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the page shows, as JSON: curves, evaluations, greedy accuracies of both ends, and some of their answers."""
    steps = [line for line in lines if "entropy/mean" in line]
    tests = [line for line in lines if "eval/pass@1" in line]
    before, after = own_answers(parts, parts.first_weights()), own_answers(parts, params)
    both = compare(parts, after, their_answers(parts, folder))
    right = lambda texts: parts.eval_scorer.score(parts.eval_examples, texts)[0] >= 1
    was, now = right(before), right(after)
    rows = zip(parts.eval_examples, before, after, was, now, strict=True)
    return {
        "steps": [int(line["step"]) for line in steps],
        "reward": _short(line["reward/mean"] for line in steps),
        "entropy": _short(line["entropy/mean"] for line in steps),
        "seconds": _short(line["time/rollout"] + line["time/update"] for line in steps),
        "evaluations": [
            {"step": line["step"]} | {k: _short([line[f"eval/{k}"]])[0] for k in KEPT if f"eval/{k}" in line}
            for line in tests
        ],
        "questions": len(was),
        "greedy": {"before": float(np.mean(was)), "after": both["entjax"]},
        "transformers": both["transformers"],
        "same_text": both["same text"],
        "answers": [
            {"question": e.prompt, "before": b, "right_before": bool(w), "after": a, "right_after": bool(n)}
            for e, b, a, w, n in list(rows)[:SHOWN]
        ],
    }


def _short(values) -> list[float]:
    return [float(f"{value:.4g}") for value in values]


PAGE = """# {name}: before and after

Written by `{command}`; do not edit by hand. Numbers: [{name}.json]({name}.json).

The run: {steps} steps of {prompts} questions x {samples} answers ({task}, recipe {recipe}, lr {lr:g}); {minutes:.0f} minutes in
rollouts and updates. Evaluation: {questions} held-out questions, {eval_samples} answers each at temperature 1.

{evaluations}

The start is a model of Q4_1 weights (four bits) made float32, where it came from `entjax convert`.{cut}

Greedy answers to the same questions: **{before:.1%} right before, {after:.1%} after** by entjax. The exported folder, opened by
transformers: {transformers:.1%}, and {same:.0%} of its texts are the same to the letter.

![Reward, entropy and held-out accuracy over the steps](images/{name}.png)

{answers}
"""


def page(name: str, command: str, parts: Parts, found: Mapping[str, Any]) -> str:
    """The page of one run."""
    c = parts.config
    names = [k for k in KEPT if k in found["evaluations"][0]]
    lines = ["| step | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    lines += [
        f"| {p['step']} | " + " | ".join(f"{p[k]:.3f}" for k in names) + " |" for p in found["evaluations"]
    ]
    mark = lambda right: "right" if right else "wrong"
    cell = lambda text: "`" + text.replace("\n", " ").replace("|", "/").replace("`", "'")[:60] + "`"
    answers = ["| question | before | | after | |", "|---" * 5 + "|"] + [
        f"| {a['question']} | {cell(a['before'])} | {mark(a['right_before'])} | {cell(a['after'])} | {mark(a['right_after'])} |"
        for a in found["answers"]
    ]
    return PAGE.format(
        name=name, command=command, steps=len(found["steps"]), prompts=c.prompts, samples=c.samples, task=c.task.name,
        recipe=c.recipe, lr=c.lr, minutes=sum(found["seconds"]) / 60, questions=found["questions"],
        cut=brevity(found["evaluations"], c.max_new_tokens),
        eval_samples=c.eval_samples, evaluations="\n".join(lines), before=found["greedy"]["before"],
        after=found["greedy"]["after"], transformers=found["transformers"], same=found["same_text"],
        answers="\n".join(answers),
    )  # fmt: skip


def brevity(evaluations: Sequence[Mapping[str, float]], limit: int) -> str:
    """How many answers were cut at the limit, before and after."""
    cut = [p["truncated"] for p in evaluations if "truncated" in p]
    if not cut:
        return ""
    return (f" At step 0\n{cut[0]:.0%} of the sampled answers are cut at the limit of {limit} tokens, at the end {cut[-1]:.0%}: "
            "of the gain a part\nmay be brevity.")  # fmt: skip


def picture(found: Mapping[str, Any], path: Path) -> None:
    """Reward with the held-out accuracy, and entropy, over the steps."""
    figure, (left, right) = panels(1, 2, size=(10, 3.4))
    left.plot(found["steps"], found["reward"], color="#1f6feb", label="training reward")
    tests = found["evaluations"]
    left.plot(
        [p["step"] for p in tests],
        [p["pass@1"] for p in tests],
        "o--",
        color="black",
        label="held-out pass@1",
    )
    left.set(xlabel="step", ylim=(0, 1))
    left.legend(frameon=False, fontsize=8)
    right.plot(found["steps"], found["entropy"], color="#d1495b")
    right.set(xlabel="step", ylabel="policy entropy (nats)", ylim=(0, None))
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workdir", type=Path)
    parser.add_argument("folder", type=Path, help="what `entjax export` made of it")
    parser.add_argument("--name", default="smollm2", help="of the page, the JSON and the picture (smollm2)")
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    options = parser.parse_args(arguments)
    with restored(options.workdir) as (parts, state):
        found = gather(parts, state.params, options.folder, read_lines(options.workdir / "metrics.jsonl"))
    given = sys.argv[1:] if arguments is None else arguments
    command = " ".join(["python -m entjax.studies.before_after", "WORKDIR FOLDER", *given[2:]])
    options.docs.mkdir(parents=True, exist_ok=True)
    (options.docs / f"{options.name}.json").write_text(
        json.dumps({"command": command} | found, indent=1) + "\n"
    )
    (options.docs / f"{options.name}.md").write_text(page(options.name, command, parts, found))
    picture(found, options.docs / "images" / f"{options.name}.png")
    print(
        f"greedy {found['greedy']}, transformers {found['transformers']:.4f}, page {options.docs / options.name}.md"
    )


if __name__ == "__main__":
    main()
