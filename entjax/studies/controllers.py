"""Which controller holds a target entropy? Every published one on the same softmax bandit, as a table and a picture.

    python -m entjax.studies.controllers [--docs docs]          about two minutes of CPU time

writes docs/controllers.md and docs/images/controllers.png. Hyperparameters that carry the scale of a language model (step
sizes of coefficients, strengths) are scaled to the bandit; rules and limits are the published ones unless the row says otherwise.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from entjax import advantages, control, regularizers, weights
from entjax.loss import Objective
from entjax.plots import panels
from entjax.studies import bandit
from entjax.transform import Transform, chain

TARGETS = (0.25, 0.5, 0.75, 1.0)
STEPS = 800
BAND = 0.10


class Row(NamedTuple):
    """A controller: target -> objective; `saturation` takes the last half's metrics, [targets, steps], to a share per target."""

    name: str
    make: Callable[[Any], Objective]
    about: str
    saturation: Callable[[dict], np.ndarray] | None = None
    tempered: int = 0


class Result(NamedTuple):
    """Per target (last half of the run where not said otherwise)."""

    entropy: np.ndarray  # [targets, steps]
    mean: np.ndarray
    error: np.ndarray  # relative
    settled: np.ndarray  # first step from which the mean of 25 steps stays inside the band, -1 for never
    saturated: np.ndarray  # share of steps at a bound, NaN where the output has none
    metrics: dict[str, np.ndarray]

    @property
    def holds(self) -> np.ndarray:
        return np.abs(self.error) <= BAND


def on_step(t: Transform | None = None) -> Objective:
    """GRPO with `t` on the current policy."""
    return Objective(advantages.group_normalize(), t)


def on_rollout(t: Transform) -> Objective:
    """GRPO with `t` after the group advantage."""
    return Objective(chain(advantages.group_normalize(), t))


def coefficient(controller: Callable[[Any], Any]) -> Callable[[Any], Objective]:
    return lambda target: on_step(regularizers.entropy(controller(target)))


def at_bound(name: str, low: float, high: float) -> Callable[[dict], np.ndarray]:
    """The share of steps in which the metric sits at a bound."""
    return lambda metrics: ((metrics[name] <= low) | (metrics[name] >= high)).mean(1)


def one_sided(push: Callable[[dict], np.ndarray]) -> Callable[[dict], np.ndarray]:
    """For a relay, whose output is always at a bound: |share of pushes up - share of pushes down|; 0 is balanced."""
    return lambda metrics: np.abs(np.sign(push(metrics)).mean(1))


def rows() -> list[Row]:
    """The controllers of the page, in its order."""
    r, c = regularizers, control
    coef = at_bound("entropy/coef", 0.0, 1.0)
    alpha = at_bound("entropic/alpha", -1.0, 1.0)
    temperature = one_sided(lambda m: m["aepo/temperature"] - 1.0)
    hot = {"high": 2.0, "low": 0.5}
    return [
        Row("none (GRPO)", lambda target: on_step(), "no entropy term"),
        Row("constant bonus", lambda target: on_step(r.entropy(0.2)), "c = 0.2, whatever the target"),
        Row("P", coefficient(lambda t: c.pid(t, kp=0.3)), "entropy coefficient, k_p 0.3, in [0, 1]", coef),
        Row("PI", coefficient(lambda t: c.pi(t, kp=0.3, ki=0.05)), "k_p 0.3, k_i 0.05, anti-windup", coef),
        Row(
            "PI on the NLL",
            coefficient(lambda t: c.measuring("nll", c.pi(t, kp=0.3, ki=0.05))),
            "the same, fed with -mean log pi of the sampled tokens",
            coef,
        ),
        Row(
            "Skywork",
            coefficient(lambda t: c.skywork(t, delta=5e-3, high=1.0)),
            "delta 5e-3 (LLM: 1e-4), max 1",
            coef,
        ),
        Row("TRL", coefficient(lambda t: c.trl_adaptive(t, delta=5e-3)), "delta 5e-3, max 1", coef),
        Row(
            "TER",
            lambda t: on_step(r.targeted_entropy(0.3, target=t)),
            "lambda 0.3 (LLM: 1e-3)",
            one_sided(lambda m: m["targeted_entropy/entropy"] - m["target"]),
        ),
        Row(
            "SIREN",
            lambda t: on_step(r.siren(1.0, anchor=t)),
            "c 1 (LLM: 5e-3), p 0.8, q 0.8, anchor = target",
        ),
        Row(
            "SIREN, all tokens",
            lambda t: on_step(r.siren(5.0, anchor=t, top_p=1.0, quantile=0.0)),
            "c 5, p 1, q 0: its own quantity is nearly the entropy",
        ),
        Row(
            "AEPO",
            lambda t: on_rollout(r.aepo(t, samples=64)),
            "T 1.2 / 0.8, half of the rows tempered",
            temperature,
            tempered=8,
        ),
        Row(
            "AEPO, hot",
            lambda t: on_rollout(r.aepo(t, samples=64, **hot)),
            "T 2 / 0.5",
            temperature,
            tempered=8,
        ),
        Row("EntroPIC", lambda t: on_step(r.entropic(t)), "K_p 1, K_i 0.01, threshold 0.95", alpha),
        Row(
            "EntroPIC, wide gate",
            lambda t: on_step(r.entropic(t, threshold=0.3, kp=3.0, ki=0.1)),
            "threshold 0.3, K_p 3, K_i 0.1",
            alpha,
        ),
        Row("EntroPIC, no gate", lambda t: on_step(r.entropic(t, threshold=0.0)), "threshold 0", alpha),
        Row(
            "Entrocraft",
            lambda t: on_rollout(advantages.entrocraft(lambda s: (1 - BAND) * t, lambda s: (1 + BAND) * t)),
            "band of 10% around the target",
            one_sided(lambda m: m["entrocraft/direction"]),
        ),
        Row(
            "Entropy budget",
            lambda target: on_step(weights.entropy_budget(target)),
            "this project's: PI on the predicted change, k_p 10, k_i 0.2",
            at_bound("entropy_budget/budget", -1.0, 1.0),
        ),
    ]


def measure(row: Row, targets=TARGETS, steps: int = STEPS, seed: int = 1) -> Result:
    """Run a row at every target (one compiled scan, vmapped) and take its figures."""
    knobs = {"tempered_temperature": 1.2} if row.tempered else None

    @jax.jit
    @jax.vmap
    def runs(target, key):
        return bandit.run(row.make(target), key, steps=steps, knobs=knobs, tempered=row.tempered)

    goal = np.asarray(targets, np.float32)
    metrics = runs(jnp.asarray(goal), jax.random.split(jax.random.key(seed), len(goal)))
    metrics = {name: np.asarray(x) for name, x in metrics.items()}
    H, half = metrics["exact_entropy"], steps // 2
    mean = H[:, half:].mean(1)
    smooth = np.stack([np.convolve(h, np.ones(25) / 25, mode="valid") for h in H])
    inside = np.abs(smooth / goal[:, None] - 1) <= BAND
    left = smooth.shape[1] - np.argmin(inside[:, ::-1], axis=1)  # one after the last step outside
    settled = np.where(inside.all(1), 0, np.where(left < smooth.shape[1], left, -1))
    none = np.full(len(goal), np.nan)
    last = {name: x[:, half:] for name, x in metrics.items()} | {"target": goal[:, None]}
    saturated = none if row.saturation is None else row.saturation(last)
    return Result(H, mean, mean / goal - 1, settled, saturated, metrics)


# The page ------------------------------------------------------------------------------------------------------------------

INTRODUCTION = """# Which controller holds a target entropy?

Written by `python -m entjax.studies.controllers`; do not edit by hand.

The policy is a softmax bandit ({prompts} prompts, {decisions} decisions each, {actions} actions, {top:.2f} nats at the start)
trained by entjax's own step: groups of {group}, GRPO, {steps} updates. Without help the entropy falls to {floor:.2f} nats.
Means and errors are of the last half of the run; a controller *holds* a target when its mean entropy lies within 10% of it.
"Steps to settle": the first step from which the mean of 25 steps stays within the 10%, one number a target. "At its limit":
share of the steps of the last half in which the output is as strong or as weak as it can get; of a relay, which has no other
outputs, the excess of pushes in one direction (100%: it always pushes the same way). Step sizes and strengths are scaled to the
bandit where the settings say so; published rules and limits are kept.

![Entropy over the updates, one panel a controller, targets dashed](images/controllers.png)

"""

NOTES = """
## What the table says

* **P leaves an error, PI removes it.** A bonus in proportion to the error needs an error to exist; the integral supplies the
  constant part. While the entropy is far above its target the coefficient sits at its bound 0, and because the sum does not grow
  there it leaves the bound with the first error of the other sign. The sampled negative log-likelihood does as well as the exact
  entropy.
* **Skywork and TRL** are integral controllers with a switch: above the target the term is off at once, so they chatter around the
  target and are on it in the mean (half of the steps at 0 is how they work). They need a delta that fits: with the published 1e-4
  a coefficient of 0.2 takes 2000 steps.
* **TER** is a relay without state, +-lambda. It holds whatever needs less than lambda, and nothing that needs more.
* **SIREN** holds what it measures, the nucleus entropy of the peak tokens ({siren}),
  not the mean entropy; tokens that are no peak go on falling, and with them in the end the peaks. With all tokens as peaks it
  comes closer, and two errors stay: the coefficient is 2 c (H - anchor), so without a gap there is no force, and the strict
  quantile leaves the most certain token of a row out.
* **AEPO** is a relay that acts through samples of a hotter or colder policy. With T = 1.2 / 0.8 the bandit's policy gradient is
  stronger than that push, T stays at 1.2 and the entropy falls through every target; with T = 2 / 0.5 the same rule holds all but
  the lowest. The range of temperatures is its authority.
* **EntroPIC** weighs positives against negatives on likely tokens; |alpha| <= 1 bounds its force, and at alpha = -1 likely tokens
  learn from negatives only. With the gate at 0.95 no decision below 95% is acted on, so the mean cannot be lifted above the
  entropy of a 95% choice, about 0.2 nats: fit for the 0.1 of the paper, not for these targets; and K_i = 0.01 moves alpha by 0.01
  times the error an update, so a run of hundreds of updates is short for it. With a wide gate and higher gains it holds 0.5 to 1;
  at 0.25 the best action is so likely that alpha = -1 only just balances the reward. Without a gate the same push also acts on
  unlikely tokens, where its effect on the entropy has the other sign: alpha goes to its limit and the entropy falls.
* **Entrocraft** refuses the samples that would push the wrong way, but what remains still follows the reward. Below the band it
  learns from negative advantages only; in expectation those too prefer the best action (its negative part is the smallest), so
  the entropy goes on falling, more slowly. It shapes the descent; it cannot lift a policy that has converged.
* **Entropy budget** is a PI controller too, but of the change that the estimator predicts for the update at hand. In a table the
  prediction is nearly exact, so what the loop must find out by itself is small, and it neither swings nor lags.
"""


def page(results: dict[str, Result], about: dict[str, str], steps: int) -> str:
    """docs/controllers.md."""
    game = bandit.Bandit()
    floor = float(next(iter(results.values())).mean.mean())
    facts = game._asdict() | {"steps": steps, "top": float(np.log(game.actions)), "floor": floor}
    head = "| controller | settings | " + " | ".join(f"target {t:g}" for t in TARGETS)
    head += " | holds | steps to settle | at its limit |\n|" + "---|" * (len(TARGETS) + 5)
    lines = [head]
    for name, result in results.items():
        cells = [f"{m:.3f} ({e:+.0%})" for m, e in zip(result.mean, result.error, strict=True)]
        held = ", ".join(f"{t:g}" for t, ok in zip(TARGETS, result.holds, strict=True) if ok) or "none"
        settled = ", ".join("-" if n < 0 else str(n) for n in result.settled)
        limit = (
            "no limit"
            if np.isnan(result.saturated).all()
            else ", ".join(f"{x:.0%}" for x in result.saturated)
        )
        lines.append(f"| {name} | {about[name]} | {' | '.join(cells)} | {held} | {settled} | {limit} |")
    return (
        INTRODUCTION.format(**facts) + "\n".join(lines) + "\n" + NOTES.format(siren=_siren(results["SIREN"]))
    )


def _siren(result: Result) -> str:
    """What SIREN's own quantity came to."""
    own = result.metrics["siren/entropy"][:, result.entropy.shape[1] // 2 :].mean(1)
    return (
        "here " + ", ".join(f"{x:.2f}" for x in own) + " for anchors " + ", ".join(f"{t:g}" for t in TARGETS)
    )


def picture(results: dict[str, Result], path: Path) -> None:
    """One panel a controller: entropy over the updates, the targets dashed."""
    columns = 4
    height = -(-len(results) // columns)
    figure, axes = panels(height, columns, size=(12, 2.2 * height), sharex=True, sharey=True)
    colors = ("#1f6feb", "#2a9d8f", "#e9a03b", "#d1495b")
    for axis, (name, result) in zip(axes.flat, results.items(), strict=False):
        for curve, target, color in zip(result.entropy, TARGETS, colors, strict=True):
            axis.plot(curve, color=color, linewidth=0.9)
            axis.axhline(target, color=color, linewidth=0.8, linestyle="--")
        axis.set_title(name, fontsize=9)
    figure.supxlabel("update")
    figure.supylabel("entropy (nats)")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="where controllers.md and images/ go")
    parser.add_argument("--steps", type=int, default=STEPS)
    arguments = parser.parse_args()
    results, about = {}, {}
    for row in rows():
        start = time.time()
        results[row.name], about[row.name] = measure(row, steps=arguments.steps), row.about
        means = " ".join(f"{m:.3f}" for m in results[row.name].mean)
        print(f"{row.name:24s} {means}   {time.time() - start:.1f} s", flush=True)
    arguments.docs.mkdir(parents=True, exist_ok=True)
    picture(results, arguments.docs / "images" / "controllers.png")
    (arguments.docs / "controllers.md").write_text(page(results, about, arguments.steps))


if __name__ == "__main__":
    main()
