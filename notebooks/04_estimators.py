# %% [markdown]
# # 04 Estimators of entropy change
# STEER, Clip-Cov and others act on a guess of what a token's update will do to the entropy. How good are the guesses? First where
# the truth is known in closed form: single sampled-token steps of independent softmax states. Then on real updates.

# %%
STATES, ACTIONS = 2000, 17

# %%
import json
from pathlib import Path

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import entjax as ej
from entjax.analysis.agreement import pearson, spearman
from entjax.analysis.prediction import ESTIMATORS, predictions

rng = np.random.default_rng(0)
n, V = int(STATES), int(ACTIONS)
logits = rng.normal(size=(n, V)) * rng.uniform(0.2, 4.0, (n, 1))
p = np.exp(logits - logits.max(1, keepdims=True))
p /= p.sum(1, keepdims=True)
entropy_of = lambda p: -(p * np.log(p)).sum(1)
token = np.array([rng.choice(V, p=row) for row in p])
advantage = rng.normal(size=n)

# %% [markdown]
# The truth: one small step of gradient ascent on each token's own surrogate, entropy after minus before.

# %%
step = 1e-4
moved = logits + step * advantage[:, None] * (np.eye(V)[token] - p)
q = np.exp(moved - moved.max(1, keepdims=True))
q /= q.sum(1, keepdims=True)
truth = (entropy_of(q) - entropy_of(p)) / step

# %%
wide = lambda x: jnp.asarray(np.stack([np.zeros(n), x], 1), jnp.float32)
logp = wide(np.log(p[np.arange(n), token]))
rollout = ej.Rollout(
    tokens=jnp.asarray(np.stack([np.arange(n) + V, token], 1), jnp.int32),
    mask=jnp.asarray([[False, True]] * n),
    logp=logp,
    entropy=wide(entropy_of(p)),
    old_logp=logp,
    reward=jnp.asarray(advantage, jnp.float32),
    group=jnp.zeros(n, jnp.int32),
)
stats = {
    "logp": logp,
    "entropy": rollout.entropy,
    "prob_sq": wide((p**2).sum(1)),
    "prob_sq_logp": wide((p**2 * np.log(p)).sum(1)),
}
objective = ej.Objective(ej.advantages.raw(), ej.averages.token_mean(), ej.surrogates.reinforce)
_, scores = predictions(objective, rollout, stats, {"per_rollout": objective.per_rollout.init(None)})
figure, axes = plt.subplots(1, len(ESTIMATORS), figsize=(15, 3.2), layout="constrained", sharey=True)
for axis, (name, x) in zip(axes, scores.items(), strict=True):
    axis.scatter(x[:, 1], truth, s=3, alpha=0.3)
    axis.set_title(f"{name}: {pearson(x[:, 1], truth):.2f}", fontsize=9)
    print(f"{name:20} Pearson {pearson(x[:, 1], truth):.2f}  Spearman {spearman(x[:, 1], truth):.2f}")
axes[0].set_ylabel("true change per unit step")
# %% [markdown]
# ## Real updates
# A network is not a table: a token moves the states of all others, and the optimizer has its own mind. The committed results of
# `python -m entjax.studies.estimators` on the quickstart's policy:

# %%
here = Path("docs") if Path("docs/estimators.json").is_file() else Path("../docs")
found = json.loads((here / "estimators.json").read_text())
for row in found["table"]:
    inside = f"   states inside an update {row['state_pearson']:.2f}" if "state_pearson" in row else ""
    print(f"{row['estimator']:20} updates {row['pearson']:.2f}{inside}")
figure, axes = plt.subplots(1, 3, figsize=(11, 3.2), layout="constrained", sharey=True)
for axis, name in zip(axes, ("exact_first_order", "covariance", "step taken"), strict=True):
    axis.scatter(
        [u["predicted"][name] for u in found["updates"]], [u["measured"] for u in found["updates"]], s=12
    )
    axis.set(title=name, xlabel="predicted")
axes[0].set_ylabel("measured change (nats)")
