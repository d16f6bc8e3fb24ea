# %% [markdown]
# # 03 Entropy collapse and the law R(H)
# GRPO spends its entropy; other methods spend it more slowly, or hold it. All curves come from the committed results of the study
# (docs/study.json), which this command makes, and goes on with where it was ended:
#
#     python -m entjax.studies.run --settings easy --seeds 5 --warm 3

# %%
SETTING, WIDTH, SEEDS = "easy", 5, 5  # the picture shows arms that have at least so many runs

# %%
import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from entjax.analysis import entropy_law
from entjax.studies.compare import final, first, smooth
from entjax.studies.grid import FIRST

here = Path("docs") if Path("docs/study.json").is_file() else Path("../docs")
runs = [run for run in json.loads((here / "study.json").read_text())["runs"] if run["setting"] == SETTING]
count = lambda arm: sum(run["arm"] == arm for run in runs)
arms = [arm for arm in FIRST if count(arm) >= SEEDS]  # of all recipes, those that the study compares in full
print(f"{len(runs)} runs: " + ", ".join(f"{arm} x {count(arm)}" for arm in arms))

# %% [markdown]
# ## The collapse, and what others do about it
# Mean over the seeds of the policy entropy (means of five steps), with a band of one standard deviation where there are several.

# %%
figure, axis = plt.subplots(figsize=(9, 5), layout="constrained")
for arm, color in zip(arms, plt.get_cmap("tab20").colors, strict=False):
    curves = np.stack([smooth(run["entropy"], WIDTH) for run in runs if run["arm"] == arm])
    mean, deviation = curves.mean(0), curves.std(0, ddof=1) if len(curves) > 1 else 0 * curves[0]
    steps = np.arange(1, len(mean) + 1)
    axis.plot(
        steps,
        mean,
        color="black" if arm == "grpo" else color,
        linewidth=2.2 if arm == "grpo" else 1.4,
        label=arm,
    )
    axis.fill_between(
        steps,
        mean - deviation,
        mean + deviation,
        color="black" if arm == "grpo" else color,
        alpha=0.12,
        linewidth=0,
    )
axis.set(xlabel="step", ylabel="policy entropy (nats)", ylim=(0, None))
axis.legend(fontsize=8, frameon=False, ncols=3)
for arm in arms:
    mine = [run for run in runs if run["arm"] == arm]
    about = lambda measure: np.mean([final(run)[measure] for run in mine])
    print(
        f"{arm:16} entropy {about('entropy'):.3f}  pass@1 {about('pass@1'):.3f}  pass@32 {about('pass@32'):.3f}"
    )
print(
    f"{'warm start':16} entropy {first(runs[0])['entropy']:.3f}  pass@1 {first(runs[0])['pass@1']:.3f}  pass@32 {first(runs[0])['pass@32']:.3f}"
)

# %% [markdown]
# ## R = -a e^H + b
# The law of Cui et al. for GRPO. How well it fits depends on what a point is, so all three are shown: every step, means of ten
# steps, held-out evaluations.

# %%
grpo = [run for run in runs if run["arm"] == "grpo"]
tens = lambda x: np.asarray(x)[: len(x) // 10 * 10].reshape(-1, 10).mean(1)
kinds = {
    "every step": [(run["entropy"], run["reward"]) for run in grpo],
    "means of ten": [(tens(run["entropy"]), tens(run["reward"])) for run in grpo],
    "evaluations": [
        ([p["entropy"] for p in run["evaluations"]], [p["pass@1"] for p in run["evaluations"]])
        for run in grpo
    ],
}
figure, axes = plt.subplots(1, 3, figsize=(12, 3.5), layout="constrained", sharey=True)
for axis, (name, pairs) in zip(axes, kinds.items(), strict=True):
    fits = [entropy_law.fit(np.array(h), np.array(r)) for h, r in pairs if len(h) > 2]
    for (h, r), law in zip(pairs, fits, strict=False):
        axis.scatter(h, r, s=10, alpha=0.5)
        x = np.linspace(min(h), max(h), 40)
        axis.plot(x, law.at(x), linewidth=1)
    axis.invert_xaxis()
    r2 = [law.r2 for law in fits]
    axis.set(title=f"{name}: R² {np.mean(r2):.2f}", xlabel="entropy (nats)")
    print(
        f"{name:14} R² "
        + ", ".join(f"{x:.2f}" for x in r2)
        + "   ceiling b - a "
        + ", ".join(f"{law.ceiling:.2f}" for law in fits)
    )
axes[0].set_ylabel("reward")
# %% [markdown]
# A law earns its name by what it says of points that it has not seen. Fitted to the first third of each run's means of ten steps,
# it is asked for the reward at the entropies that came later; beside it the forecast that the reward stays as it was.

# %%
for h, r in kinds["means of ten"]:
    ahead = entropy_law.forecast(h, r)
    print(
        f"seen {ahead.points} of {len(h)} means: misses the later rewards by {ahead.error:.3f}, a constant by {ahead.constant:.3f}"
    )
