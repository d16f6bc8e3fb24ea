"""How well does each estimator predict the entropy change of a real update? Predicted against measured, on a model that learns.

    python -m entjax.studies.estimators [--config CONFIG [key=value ...]] [--updates 40] [--docs docs]

(The JSON is written after every update; --updates 0 writes the page again from it.)
Every update of the run is probed. Before it, each estimator scores the batch's tokens as a transform would see them. The
measured change is the policy's exact entropy at the same states after the update minus before it. Two questions:

    per update   predicted mean over tokens against measured mean, over the updates                 (can it steer a budget?)
    per state    predicted (sum over the tokens drawn in one state) against measured at the states
                 of an update, mean over the updates                                                (does it know which tokens?)

Two rows are no estimators of a token; they tell where prediction is lost. "shared parameters" is <grad H, grad J>: what tokens
do to each other's states counts, the optimizer does not. "step taken" is <grad H, d theta>, the ceiling of first order. A column
averages the predictions over the updates as AdamW's momentum averages the gradients: a tenth of a step is its own batch's.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from entjax import setup
from entjax.analysis.agreement import pearson, spearman
from entjax.analysis.prediction import SHARED, TAKEN, Update, make_probe, one_update
from entjax.config import Config, load_config, parse_overrides, shipped_configs
from entjax.plots import panels


def study(config: Config, updates: int) -> Iterator[Update]:
    """Train with `config` for `updates` steps and look at every one."""
    config = dataclasses.replace(config, steps=updates, minibatches=1, eval_prompts=1)
    parts = setup.build(config)
    state = parts.fresh_state()
    probe = make_probe(parts.model, setup.chunk_of(parts.config, None))
    for step in range(updates):
        state, update = one_update(parts, state, step, probe)
        yield update
    parts.close()


def table(updates: list[Update]) -> list[dict[str, Any]]:
    """One row an estimator: correlations over the updates, and inside them over the states (mean of the updates whose predictions
    vary)."""
    measured = np.array([u.measured for u in updates])
    rows = []
    for name in updates[0].predicted:
        x = np.array([u.predicted[name] for u in updates])
        row = {"estimator": name, "pearson": pearson(x, measured), "spearman": spearman(x, measured)}
        if name != TAKEN:
            row["momentum_pearson"] = pearson(momentum(x), measured)
        if name in updates[0].state:
            known = np.array([u.state[name] for u in updates if not np.isnan(u.state[name]).any()])
            mean = known.mean(axis=0) if len(known) else (np.nan, np.nan)
            row |= {"state_pearson": float(mean[0]), "state_spearman": float(mean[1])}
        rows.append(row)
    return rows


def momentum(x: np.ndarray, b1: float = 0.9) -> np.ndarray:
    """What Adam's first moment makes of a sequence, bias corrected."""
    total, out = 0.0, np.empty(len(x))
    for t, value in enumerate(x):
        total = b1 * total + (1 - b1) * value
        out[t] = total / (1 - b1 ** (t + 1))
    return out


# The page ------------------------------------------------------------------------------------------------------------------

PAGE = """# Which estimator predicts the entropy change of a real update?

Written by `{command}`; do not edit by hand. Numbers: [{name}.json]({name}.json).

{config}: {updates} AdamW updates of {rows} sequences, one optimizer step a
rollout. The measured change is the exact entropy of the policy, mean over the batch's tokens, after the step minus before it, at
the same states. *Per update* correlates the predicted mean with it over the {updates} updates (the standard error of a
correlation of 0.5 is about {error:.2f}); *with momentum*, the predictions averaged as AdamW averages the gradients; *per state*
correlates, inside an update whose rewards differ, the sum of the predictions of all tokens drawn in one state with that
state's change. Letters and formulas: `entjax/entropy_change.py`.

| estimator | Pearson, per update | Spearman, per update | Pearson, with momentum | Pearson, per state | Spearman, per state |
|---|---|---|---|---|---|
{rows_of_table}

![Predicted against measured, one panel an estimator](images/{name}.png)

{words}"""


def words(rows: list[dict[str, Any]]) -> str:
    """What the table says, in sentences that follow from its numbers."""
    by = {row["estimator"]: row for row in rows}
    tokens = [row for row in rows if "state_pearson" in row]
    best = max(tokens, key=lambda row: row["pearson"])
    exact, first = by["exact_first_order"], max(tokens, key=lambda row: row["state_pearson"])
    shared = by[SHARED]["pearson"]
    limit = (
        "only, for the optimizer stands between it and\n  the step"
        if shared < exact["pearson"]
        else f"beside {exact['pearson']:.2f} token by token, and\n  the optimizer stands between it and the step"
    )
    beside = "" if best is exact else f"`exact_first_order` {exact['pearson']:.2f}, "
    return f"""## What it says

* Of the estimators that look at one token, `{best["estimator"]}` orders the updates best (Pearson {best["pearson"]:.2f};
  {beside}the published covariance {by["covariance"]["pearson"]:.2f}). Inside an update
  `{first["estimator"]}` knows best which states move (Pearson {first["state_pearson"]:.2f}).
* The derivative of the mean entropy along the step that AdamW really took correlates with {by[TAKEN]["pearson"]:.2f}: first order
  suffices for steps of this size. What is lost before is what turns tokens into a step.
* For a softmax table `exact_first_order` is exact (1.00). In a network states share their parameters; but the derivative along
  the plain policy gradient, which counts that, comes to {shared:.2f} {limit}.
  A step of AdamW is a tenth its own batch's and nine tenths that of earlier ones: averaged in the same way, the
  prediction of `exact_first_order` goes from {exact["pearson"]:.2f} to {exact["momentum_pearson"]:.2f}.
"""


def page(config: Config, name: str, command: str, updates: list[Update]) -> str:
    """The page of one study."""
    rows = table(updates)
    number = lambda row, key: f"{row[key]:.2f}" if key in row else "-"
    keys = ("pearson", "spearman", "momentum_pearson", "state_pearson", "state_spearman")
    lines = [f"| {row['estimator']} | " + " | ".join(number(row, key) for key in keys) + " |" for row in rows]
    about = f"{config.task.name}, recipe {config.recipe}, lr {config.lr:g}, seed {config.seed}"
    error = 0.75 / max(1, len(updates) - 2) ** 0.5  # (1 - r^2) / sqrt(n - 2) at r = 0.5
    return PAGE.format(command=command, name=name, config=about, updates=len(updates), rows=config.rows, error=error,
                       rows_of_table="\n".join(lines), words=words(rows))  # fmt: skip


def picture(updates: list[Update], path: Path) -> None:
    """Predicted against measured, one panel an estimator, a dot an update."""
    rows = table(updates)
    figure, axes = panels(2, -(-len(rows) // 2), size=(13, 6), sharey=True)
    for axis in axes.flat[len(rows) :]:
        axis.axis("off")
    measured = [u.measured for u in updates]
    for axis, row in zip(axes.flat, rows, strict=False):
        name = row["estimator"]
        axis.scatter([u.predicted[name] for u in updates], measured, s=14, color="#1f6feb", alpha=0.8)
        axis.set_title(f"{name}: Pearson {row['pearson']:.2f}", fontsize=9, loc="left")
        axis.tick_params(labelsize=7)
        axis.spines[["top", "right"]].set_visible(False)
    figure.supxlabel("predicted (each in its own units)")
    figure.supylabel("measured change of entropy (nats)")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--config", type=Path, default=shipped_configs() / "quickstart.py", help="a config file"
    )
    parser.add_argument("--name", default="estimators", help="of the page, the JSON and the picture")
    parser.add_argument("--updates", type=int, default=40)
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    parser.add_argument("override", nargs="*", metavar="key=value")
    options = parser.parse_args(arguments)
    config = load_config(options.config).override({"recipe": "grpo"} | parse_overrides(options.override))

    file = options.docs / f"{options.name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    updates: list[Update] = []
    given = sys.argv[1:] if arguments is None else arguments
    command = " ".join(["python -m entjax.studies.estimators", *given])
    for u in study(config, options.updates) if options.updates else ():
        step = f"{len(updates):3d}  H {u.entropy:.4f}  dH {u.measured:+.5f}"
        print(f"{step}  step taken {u.predicted[TAKEN]:+.5f}", flush=True)
        updates.append(u)
        found = {"command": command, "table": table(updates), "updates": [u._asdict() for u in updates]}
        file.write_text(json.dumps(_rounded(found), indent=None) + "\n")
    known = json.loads(file.read_text())
    updates, command = [Update(**u) for u in known["updates"]], known["command"]
    (options.docs / f"{options.name}.md").write_text(page(config, options.name, command, updates))
    picture(updates, options.docs / "images" / f"{options.name}.png")


def _rounded(x: Any) -> Any:
    if isinstance(x, dict):
        return {key: _rounded(value) for key, value in x.items()}
    if isinstance(x, (list, tuple)):
        return [_rounded(value) for value in x]
    return x if isinstance(x, str) else float(f"{float(x):.6g}")


if __name__ == "__main__":
    main()
