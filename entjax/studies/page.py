"""docs/study.md and its pictures, from docs/study.json and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from entjax import methods
from entjax.studies import pictures
from entjax.studies.claims import CLAIMS, HOLDS, holds_target
from entjax.studies.compare import (
    Pairs,
    Result,
    Spread,
    alike,
    distance,
    error_of,
    final,
    first,
    gain,
    gain_at,
    lowest,
    over,
    spread,
    stopped,
    told,
    twins,
)
from entjax.studies.grid import COMPARED, UNSUPERVISED, settings

IDENTITY = ("setting", "arm", "warm", "seed", "steps", "prompts", "samples", "lr", "eval_prompts", "options")


def identity(about: Mapping[str, Any]) -> str:
    """What makes two results those of the same run."""
    return json.dumps([about[key] for key in IDENTITY], sort_keys=True)


def read(file: Path) -> list[Result]:
    """The results that a file holds; none where there is no file."""
    return json.loads(file.read_text())["runs"] if file.is_file() else []


def collect(root: Path, file: Path) -> list[Result]:
    """The results of the file and of the cells under `root` (these win), written back to the file."""
    fresh = [json.loads(path.read_text()) for path in sorted(root.glob("cells/*/result.json"))]
    runs = [r for _, r in sorted({identity(r): r for r in [*read(file), *fresh]}.items())]
    if runs:
        file.parent.mkdir(parents=True, exist_ok=True)
        lines = ",\n".join(json.dumps(run, separators=(",", ":")) for run in runs)
        file.write_text('{"runs": [\n' + lines + "\n]}\n")
    return runs


HEAD = """# The study: which method does what?

Written from [study.json](study.json) by `python -m entjax.studies.run --minutes 0`; do not edit by hand. The runs come from
`python -m entjax.studies.run`, which goes on where it was ended.

A policy of 150,000 parameters learns from verified rewards. All arms of a setting have the same number of steps, prompts and
samples (AEPO samples a quarter more, by its nature), the same learning rate, and are paired by warm start and seed. Evaluation:
128 held-out prompts, 32 samples each. Options that carry the scale of a language model are scaled to this one
(`entjax/studies/grid.py` has them all). A number is the mean over the runs ± its standard error. A difference holds where the 95%
confidence interval of its mean (Student's t, so four standard errors with three pairs) leaves out 0; seeds that share a warm
start are counted as if they did not. At equal entropy or pass@1: beside the straight line through the evaluations of GRPO's run,
because the moment at which a noisy curve first reaches a value is a lucky one. The line is biased the same way, half as much, and
the luck of GRPO's few runs is in every row. A difference is therefore named, printed bold or judged only where it also lies
outside of what the arms of the setting show that end as GRPO does (entropy within 3%, pass@1 and pass@32 not told apart; where
there are five such arms). What a step of an arm costs is measured apart, in
one run ([performance.md](performance.md), rows *recipes*): these runs shared their machine with other work.

"""


SHORT = """## In short

The arms with three or more pairs of runs, beside GRPO at the end of the same budget. Named is what the confidence interval tells
from 0 and what lies outside of what arms show that end as GRPO does.

"""


def write(results: Sequence[Result], docs: Path) -> None:
    """The page and the pictures."""
    known = settings()
    present = [name for name in known if any(r["setting"] == name for r in results)]
    text = HEAD + SHORT + short(results, present) + "\n\n"
    for setting in present:
        here, target = [r for r in results if r["setting"] == setting], known[setting].target
        arms = [name for name in COMPARED if any(r["arm"] == name for r in here)]
        others = sorted({r["arm"] for r in here} - set(COMPARED))
        entropy, frontier = f"study-{setting}-entropy.png", f"study-{setting}-frontier.png"
        pictures.entropies(here, arms, docs / "images" / entropy)
        pictures.frontier(here, arms, docs / "images" / frontier)
        text += f"## {setting}\n\n{sizes(here)} Arms that hold an entropy aim at {target:g} nats.{known[setting].note}\n\n"
        text += f"{table(here, arms, target)}\n\n"
        text += f"![Entropy of each arm beside GRPO's](images/{entropy})\n\n![pass@1 and pass@32](images/{frontier})\n\n"
        text += f"{matched(here, arms)}\n\n{verdicts(here, arms)}\n\n"
        if set(ANCHORS) <= set(arms):
            text += f"### {setting}: a budget, an anchor, and one beside the other\n\n{anchored(here)}\n\n"
        if others:
            picture = f"study-{setting}-family.png"
            pictures.differences(
                here, [name for name in others if name not in UNSUPERVISED], docs / "images" / picture
            )
            text += f"### {setting}: the rest of the family\n\n{family(here, others)}\n\n"
            text += f"![Where every recipe ends, beside GRPO](images/{picture})\n\n"
    (docs / "study.md").write_text(text.rstrip() + "\n")


def short(results: Sequence[Result], names: Sequence[str]) -> str:
    """One column a setting: the arms that differ from GRPO beyond doubt, most first, and those that hold their target."""
    questions: tuple[tuple[str, Callable[[Pairs], Spread], int], ...] = (
        ("more pass@1 at the end", lambda pairs: gain(pairs, "pass@1"), 1),
        ("less pass@1", lambda pairs: gain(pairs, "pass@1"), -1),
        ("more pass@32 at the end", lambda pairs: gain(pairs, "pass@32"), 1),
        ("less pass@32", lambda pairs: gain(pairs, "pass@32"), -1),
        ("more pass@32 at equal pass@1", lambda pairs: gain_at(pairs, "pass@1", "pass@32"), 1),
        ("less pass@32 at equal pass@1", lambda pairs: gain_at(pairs, "pass@1", "pass@32"), -1),
        ("more entropy at the end", lambda pairs: gain(pairs, "entropy"), 1),
    )
    of = {name: [r for r in results if r["setting"] == name] for name in names}
    arms = {name: sorted({r["arm"] for r in here} - {"grpo"}) for name, here in of.items()}
    like = {name: alike(here) for name, here in of.items()}

    def differing(name: str, ask: Callable, sign: int) -> str:
        found, error = {arm: ask(twins(of[name], arm)) for arm in arms[name]}, error_of(ask, like[name])
        clear = {arm: f.mean for arm, f in found.items() if told(f, error) == sign}
        order = sorted(clear, key=lambda arm: -sign * clear[arm])
        return ", ".join(f"{arm} {clear[arm]:+.3f}" for arm in order) or "none"

    def holding(name: str) -> str:
        return ", ".join(arm for arm in arms[name] if holds_target(0.05)(of[name], arm)[1] == HOLDS) or "none"

    compared = lambda name: sum(len(twins(of[name], arm)) >= 3 for arm in arms[name])
    rows = [
        ["beside GRPO", *(f"{name} ({compared(name)} arms)" for name in names)],
        ["---"] * (len(names) + 1),
    ]
    rows += [[what, *(differing(name, ask, sign) for name in names)] for what, ask, sign in questions]
    rows += [["within 5% of its target, GRPO farther", *map(holding, names)]]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def sizes(runs: Sequence[Result]) -> str:
    """What was run."""
    say = lambda key: "/".join(str(x) for x in sorted({r[key] for r in runs}))
    warm, seeds = len({r["warm"] for r in runs}), len({(r["warm"], r["seed"]) for r in runs})
    few = (
        " Too few to tell arms apart: a difference between two rows is one of single runs."
        if seeds < 3
        else ""
    )
    count = lambda n, what: f"{n} {what}{'s' * (n > 1)}"
    size = f"{say('steps')} steps of {say('prompts')} prompts x {say('samples')} samples, lr {say('lr')}"
    return f"{count(len(runs), 'run')}: {size}; {count(seeds, 'seed')} from {count(warm, 'warm start')}.{few}"


def table(runs: Sequence[Result], arms: Sequence[str], target: float) -> str:
    """One row an arm, at the end of the budget; before them the warm start and GRPO stopped at the target."""
    head = [
        "",
        "runs",
        "pass@1",
        "pass@4",
        "pass@32",
        "distinct right",
        "entropy, end",
        "least",
        "from target",
    ]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    row = lambda name, cells: lines.append("| " + " | ".join([name, *map(str, cells)]) + " |")
    grpo = [r for r in runs if r["arm"] == "grpo"]
    shown = ("pass@1", "pass@4", "pass@32", "distinct_correct", "entropy")
    if grpo:
        row("*warm start*", [len(grpo), *(over(grpo, lambda r, m=m: first(r)[m]) for m in shown), "", ""])
        early = [p for r in grpo if (p := stopped(r, target))]
        row(
            f"*grpo, stopped at {target:g} nats*",
            [len(early), *(spread([p[m] for p in early]) for m in shown), "", ""],
        )
    for name in arms:
        mine = [r for r in runs if r["arm"] == name]
        away = over([{**r, "target": target} for r in mine] if name == "grpo" else mine, distance)
        row(name, [len(mine), *(over(mine, lambda r, m=m: final(r)[m]) for m in shown), over(mine, lowest),
                   f"{away.mean:.0%}" if away.n else ""])  # fmt: skip
    return "\n".join(lines)


def matched(runs: Sequence[Result], arms: Sequence[str]) -> str:
    """Differences to the GRPO twin: at the end, at equal entropy, at equal pass@1."""
    columns = "minus GRPO|pass@1, end|pass@32, end|pass@1, equal entropy|pass@32, equal entropy|pass@32, equal pass@1"
    head = [*columns.split("|"), "distinct right, equal pass@1"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name in arms:
        pairs = twins(runs, name)
        if name == "grpo" or not pairs:
            continue
        found = [gain(pairs, "pass@1"), gain(pairs, "pass@32"), gain_at(pairs, "entropy", "pass@1"),
                 gain_at(pairs, "entropy", "pass@32"), gain_at(pairs, "pass@1", "pass@32"),
                 gain_at(pairs, "pass@1", "distinct_correct")]  # fmt: skip
        lines.append(f"| {name} | " + " | ".join(f.signed() for f in found) + " |")
    lines += ["", f"A dash: GRPO never came near that entropy or pass@1. {nothing(runs)}"]
    return "\n".join(lines)


def nothing(runs: Sequence[Result]) -> str:
    """What the comparison at equal pass@1 finds where there is nothing to be found."""
    ask = lambda pairs: gain_at(pairs, "pass@1", "pass@32")
    each = [found.mean for found in map(ask, alike(runs)) if found.n]
    if not each:
        return ""
    grpo = [r for r in runs if r["arm"] == "grpo"]
    count = min(len(r["evaluations"]) for r in grpo)
    cut = lambda i: ask([({**r, "evaluations": r["evaluations"][: i + 1]}, r) for r in grpo]).mean
    cuts = [cut(i) for i in range(1, count)]
    return (
        f"The comparison tries itself: the {len(each)} arms that end as GRPO does have at equal pass@1 {spread(each).mean:+.3f}"
        f" pass@32 in the mean ({min(each):+.3f} to {max(each):+.3f}), and GRPO itself, ended at one of its evaluations, lies"
        f" {min(cuts):+.3f} to {max(cuts):+.3f} off its own line."
    )


ANCHORS = ("grpo", "entropy_budget_glide", "grpo_anchored", "entropy_budget_anchored")


def anchored(runs: Sequence[Result]) -> str:
    """GRPO, with a budget, with an anchor, with both: after the first evaluation and at the end, of the seeds of all four."""
    start = lambda r: (r["warm"], r["seed"])
    seeds = set.intersection(*({start(r) for r in runs if r["arm"] == arm} for arm in ANCHORS))
    mine = {arm: [r for r in runs if r["arm"] == arm and start(r) in seeds] for arm in ANCHORS}
    if not seeds or len(mine["grpo"][0]["evaluations"]) < 2:
        return "No seed has run with all four yet."
    at = mine["grpo"][0]["evaluations"][1]["step"]
    shown = ("pass@1", "pass@32", "entropy")
    lines = [
        "| " + " | ".join(["", *(f"{m}, step {at}" for m in shown), *(f"{m}, end" for m in shown)]) + " |",
        "|" + "---|" * 7,
    ]
    rows = {"*warm start*": [over(mine["grpo"], lambda r, m=m: first(r)[m]) for m in shown] + [""] * 3}
    for arm, found in mine.items():
        rows[arm] = [over(found, lambda r, m=m, i=i: r["evaluations"][i][m]) for i in (1, -1) for m in shown]
    lines += ["| " + " | ".join([name, *map(str, cells)]) + " |" for name, cells in rows.items()]
    intro = (
        f"{len(seeds)} seeds of GRPO, of an entropy budget whose line of targets begins where the runs begin, of GRPO with a KL"
        " (k3, coefficient 0.03) to the warm start, and of the budget with one (0.1). The coefficients were chosen on the hard"
        " task, each so that it ends with about GRPO's pass@1; a KL of 0.1 alone, in a trial that is not among these runs, ended"
        " at 0.172."
    )
    return "\n".join([intro, "", *lines])


def family(runs: Sequence[Result], arms: Sequence[str]) -> str:
    """One row a recipe: where it intervenes, its end, and its end minus GRPO's; clear differences in bold."""
    counted = [(name, twins(runs, name)) for name in arms]
    unseen = ", ".join(f"`{name}`" for name in UNSUPERVISED)
    intro = (
        f"Every other recipe with its options as published, unless `grid.py` scales them. {unseen} never see the verifier (not "
        "in the picture). Sorted by pass@32 minus GRPO's. Bold: the confidence interval leaves out 0, and the difference lies "
        "outside of what arms show that end as GRPO does. Evaluations count prompts, so three differences can agree by chance "
        "(± 0.000)."
    )
    if max(len(pairs) for _, pairs in counted) < 3:
        intro += " **Too few runs to tell these apart**: with one run each, all rows share what is particular to one run of GRPO."
    head = ["", "intervenes at", "runs", "pass@1", "pass@32", "entropy", "pass@1, minus GRPO", "pass@32, minus GRPO",
            "entropy, minus GRPO", "pass@32, equal pass@1"]  # fmt: skip
    asks: list[Callable[[Pairs], Spread]] = [
        lambda pairs, m=m: gain(pairs, m) for m in ("pass@1", "pass@32", "entropy")
    ]
    asks.append(lambda pairs: gain_at(pairs, "pass@1", "pass@32"))
    like = alike(runs)
    errors = [error_of(ask, like) for ask in asks]
    rows = []
    for name, pairs in counted:
        mine = [r for r in runs if r["arm"] == name]
        ends = [over(mine, lambda r, m=m: final(r)[m]) for m in ("pass@1", "pass@32", "entropy")]
        found = [ask(pairs) for ask in asks]
        bold = lambda f, error: f"**{f.signed()}**" if told(f, error) else f.signed()
        cells = [
            name,
            methods.method(mine[0]["recipe"]).places or "-",
            len(mine),
            *ends,
            *map(bold, found, errors),
        ]
        rows.append((-found[1].mean, "| " + " | ".join(map(str, cells)) + " |"))
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *(row for _, row in sorted(rows))]
    return "\n".join([intro, "", *lines])


def verdicts(runs: Sequence[Result], arms: Sequence[str]) -> str:
    """The claims, one line each."""
    lines = ["| arm | source | claimed | measured | here it |", "|---|---|---|---|---|"]
    for claim in CLAIMS:
        if claim.arm in arms:
            measured, verdict = claim.ask(runs, claim.arm)
            lines.append(f"| {claim.arm} | {claim.paper} | {claim.claimed} | {measured} | **{verdict}** |")
    return "\n".join(lines)
