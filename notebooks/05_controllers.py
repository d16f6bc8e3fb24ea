# %% [markdown]
# # 05 Controllers side by side
# The same measurement, the entropy, and the same goal, a target; the rules differ. A softmax bandit whose entropy collapses without
# help is steered by each (docs/controllers.md has all of them, more targets and longer runs).

# %%
STEPS, SEEDS, TARGET, ARMS = 400, 2, 0.5, 6

# %%
import jax
import matplotlib.pyplot as plt
import numpy as np

import entjax as ej
from entjax.studies import bandit

r, c = ej.regularizers, ej.control
group = ej.advantages.group_normalize
arms = {
    "none": ej.Objective(group()),
    "constant bonus": ej.Objective(group(), r.entropy(0.2)),
    "PI on the bonus": ej.Objective(group(), r.entropy(c.pi(TARGET, kp=0.3, ki=0.05))),
    "Skywork": ej.Objective(group(), r.entropy(c.skywork(TARGET, delta=5e-3, high=1.0))),
    "EntroPIC, wide gate": ej.Objective(group(), r.entropic(TARGET, threshold=0.3, kp=3.0, ki=0.1)),
    "entropy budget": ej.Objective(group(), ej.weights.entropy_budget(TARGET)),
}

# %%
figure, axes = plt.subplots(2, 3, figsize=(11, 5), sharex=True, sharey=True, layout="constrained")
for axis, (name, objective) in zip(axes.flat, list(arms.items())[-int(ARMS) :], strict=False):
    go = jax.jit(jax.vmap(lambda key: bandit.run(objective, key, steps=int(STEPS))))
    found = jax.device_get(go(jax.random.split(jax.random.key(0), int(SEEDS))))
    entropy = found["exact_entropy"]
    axis.plot(entropy.T, linewidth=1)
    axis.axhline(TARGET, color="black", linewidth=0.7, linestyle="--")
    axis.set_title(name, fontsize=10)
    late = entropy[:, entropy.shape[1] // 2 :].mean()
    reward = found["reward"][:, -50:].mean()
    print(f"{name:22} last half {late:.3f} ({late / TARGET - 1:+.0%})  reward {reward:.3f}")
figure.supylabel("entropy (nats)")

# %% [markdown]
# A constant bonus knows no target. The integral rules swing before they settle, for they find out from the entropy itself, afterwards,
# what it needs. The entropy budget asks the batch beforehand what its update will do to the entropy, and has little left to correct.
