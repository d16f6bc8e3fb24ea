"""What do rollout strategies do to a policy? Each trains the quickstart's task for twenty steps from the shipped warm start.

    python -m entjax.studies.strategies [NAME ...] [--seeds 1] [--out FILE]       about a minute of CPU time a run

A run is compared with its `control`, another run of this list with the same seed: most often plain groups under the same
objective. Entropy and pass@1 are those of plain samples of the policy on held-out prompts, whatever the strategy samples.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import entjax as ej
from entjax.config import Config, shipped_configs
from entjax.log import read_lines
from entjax.rollouts import (
    EchoRules,
    Harvest,
    Strategy,
    agentic,
    arpo,
    as_strategy,
    augmentation,
    cure,
    echo,
    groups,
    multi_turn,
    recent_samples,
    replay,
    silent,
    tempered,
    tool_light,
    tree,
    votes,
)
from entjax.train import train

STEPS = silent("=", ",")  # a step of an answer ends before a result and behind it
# thresholds inside the range of this model's entropies and confidences: some steps are uncertain, most are not
RULES = EchoRules(
    entropy_high=0.5, branch_threshold=6.0, entropy_low=0.1, min_depth=0, prune_threshold=0.0, delta_upper=2.0
)
TEMPLATES = ("{prompt}", ":{prompt}", ">{prompt}")


class Run(NamedTuple):
    """A strategy with the rest of its config, and what it is compared with."""

    strategy: Strategy
    changes: Mapping[str, Any]
    control: str | None = None


def self_imitation() -> ej.Objective:
    """SPEAR's update without its tool bonus, and with the replayed rows' loss at full weight from the first step on."""
    A = ej.advantages
    first = ej.chain(A.group_normalize(std=False), A.replay_baseline(), A.replay_weight(1.0))
    step = ej.chain(ej.clips.asymmetric(0.2, 0.28), ej.weights.clip_cov(), ej.averages.token_mean())
    return ej.Objective(first, step)


def aepo(target: float) -> dict[str, Any]:
    """The recipe with an entropy target."""
    return {"recipe": "aepo", "recipe_options": {"target": target, "samples": 256}}


DAPO = {"recipe": "dapo"}
RUNS = {
    "grpo": Run(groups(), {}),
    "dapo": Run(groups(), DAPO),
    "dynamic": Run(groups(resample=2), DAPO, "dapo"),
    "cure": Run(cure(characters=1, k=5), DAPO, "dapo"),
    "multi_turn": Run(multi_turn(STEPS), {"recipe": "empg"}, "grpo"),
    "arpo": Run(arpo(STEPS), {}, "grpo"),
    "agentic": Run(agentic(STEPS), {"recipe": "agentic_aepo"}, "arpo"),
    "votes": Run(votes(32), {}, "grpo"),
    "tree": Run(tree(forks=3, branches=5), {"recipe": "ettrl"}, "votes"),
    "echo": Run(echo(RULES), {"recipe": "echo"}, "votes"),
    "tool_light": Run(tool_light(STEPS, counts=(1, 2, 3)), {}, "grpo"),
    "tempered_low": Run(tempered(share=0.5), aepo(0.05), "grpo"),
    "tempered": Run(tempered(share=0.5), aepo(0.5), "tempered_low"),
    "spear": Run(replay(size=16, ready=1e9), {"objective": self_imitation()}),  # never enough to replay
    "replay": Run(replay(size=16, ready=1.0), {"objective": self_imitation()}, "spear"),
    "recent_samples": Run(recent_samples(resample=2, surplus=2.0), DAPO, "dynamic"),
    "augmentation": Run(augmentation(TEMPLATES), DAPO, "dapo"),
}  # fmt: skip


class Result(NamedTuple):
    """A run's evaluations, the records of its steps, and its harvests."""

    config: Config
    before: Mapping[str, float]
    after: Mapping[str, float]
    records: Sequence[Mapping[str, float]]
    harvests: Sequence[Harvest]

    def series(self, name: str) -> np.ndarray:
        """A metric over the steps."""
        return np.array([record[name] for record in self.records])


def config(name: str, seed: int = 0, **changes: Any) -> Config:
    """The quickstart with another strategy and a smaller batch."""
    base = {
        "task": ej.tasks.countdown(numbers=3), "model": str(shipped_configs() / "countdown3"), "seed": seed,
        "steps": 20, "prompts": 16, "samples": 16, "minibatches": 2, "max_new_tokens": 19, "lr": 2e-4,
        "eval_every": 0, "eval_prompts": 64, "eval_samples": 16, "eval_k": (1, 16), "save_every": 1000,
    }  # fmt: skip
    run = RUNS[name]
    return Config(**{**base, "strategy": run.strategy, **run.changes, **changes})


def study(name: str, workdir: str | Path, seed: int = 0, **changes: Any) -> Result:
    """Train with one strategy; every harvest is kept."""
    harvests: list[Harvest] = []
    c = config(
        name, seed, **{**changes, "strategy": watched(as_strategy(RUNS[name].strategy), harvests.append)}
    )
    found = train(c, workdir)
    records = [r for r in read_lines(Path(workdir) / "metrics.jsonl") if "loss" in r]
    return Result(c, found["before"], found["after"], records, harvests)


def watched(strategy: Strategy, look: Callable[[Harvest], None]) -> Strategy:
    """The strategy, with a look at every harvest; evaluation samples plainly."""

    def collect(tools, examples, step, knobs, memory):
        harvest, memory = strategy.collect(tools, examples, step, knobs, memory)
        look(harvest)
        return harvest, memory

    return strategy._replace(collect=collect, sample=None)


def branch_points(harvest: Harvest) -> list[tuple[int, int]]:
    """(row, length of the longest completion prefix that it shares with an earlier row of its group), where it shares any."""
    c, found = harvest.completions, []
    for row in range(len(c.length)):
        earlier = [r for r in range(row) if c.group[r] == c.group[row]]
        at = max((_shared(c, row, other) for other in earlier), default=0)
        if at > c.prompt_length[row]:
            found.append((row, at))
    return found


def _shared(c, a: int, b: int) -> int:
    n = int(min(c.length[a], c.length[b]))
    differ = np.flatnonzero(c.tokens[a, :n] != c.tokens[b, :n])
    return int(differ[0]) if len(differ) else n


HEADER = (
    "| run | control | entropy | pass@1 | pass@16 | reward of the batch | groups without signal | computed |\n"
    + "|---" * 8
    + "|"
)


def line(name: str, seed: int, result: Result) -> dict[str, Any]:
    """The figures of a run: (before, after) or (first five steps, last five)."""
    ends = lambda x: (float(np.mean(x[:5])), float(np.mean(x[-5:])))
    pair = lambda key: (result.before[key], result.after[key])
    share = [r.get("sampling/computed_share", 1.0) for r in result.records]
    return {
        "run": name, "seed": seed, "entropy": pair("eval/entropy"),
        "pass@1": pair("eval/pass@1"), "pass@16": pair("eval/pass@16"),
        "loss": ends(result.series("loss")), "reward": ends(result.series("reward/mean")),
        "no_signal": ends(result.series("groups/no_signal")), "rollout entropy": ends(result.series("entropy/rollout")),
        "share": float(np.mean(share)),
    }  # fmt: skip


def table(lines: Sequence[Mapping[str, Any]]) -> str:
    """Markdown, means over the seeds."""
    out = [HEADER]
    for name in dict.fromkeys(x["run"] for x in lines):
        mine = [x for x in lines if x["run"] == name]
        mean = lambda key, mine=mine: np.mean([x[key] for x in mine], axis=0)
        cells = [f"`{name}`", RUNS[name].control or "-"]
        cells += [
            f"{mean(key)[0]:.3f} → {mean(key)[1]:.3f}"
            for key in ("entropy", "pass@1", "pass@16", "reward", "no_signal")
        ]
        out.append("| " + " | ".join([*cells, f"{mean('share'):.0%}"]) + " |")
    return "\n".join(out)


def main() -> None:
    options = argparse.ArgumentParser(description="Train with every rollout strategy.")
    options.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(RUNS)} (default: all)")
    options.add_argument("--seeds", type=int, default=1)
    options.add_argument("--out", type=Path, help="a JSON file for the figures, written after every run")
    given = options.parse_args()
    lines = []
    for seed in range(given.seeds):
        for name in given.names or RUNS:
            with tempfile.TemporaryDirectory() as folder:
                lines.append(line(name, seed, study(name, Path(folder) / "run", seed)))
            if given.out:
                given.out.write_text(json.dumps(lines, indent=1) + "\n")
    print(table(lines))


if __name__ == "__main__":
    main()
