# %% [markdown]
# # 02 Write and test your own method in ten lines
# The idea to try: tokens that the policy already says with certainty have nothing to learn, and pushing them further only costs
# entropy. So their weight falls with their probability: w = 1 - strength * p^power.

# %%
STEPS, SEEDS = 300, 3

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import entjax as ej
from entjax.studies import bandit


def humble(strength=0.9, power=2.0):
    """w_it = 1 - strength * p_it^power."""

    def f(signal, context, *, strength, power):
        p = jnp.exp(jnp.minimum(context.rollout.old_logp, 0))
        return signal.replace(weight=signal.weight * (1 - strength * p**power))

    return ej.tunable("humble", f, {"strength": strength, "power": power}, writes={"weight"})


# %% [markdown]
# A test compares with something independent: limits of the equation, and that compiling changes nothing.

# %%
batch = bandit.sample(
    bandit.Bandit(), jnp.zeros((8, 7, 8)), jax.random.key(0), jnp.arange(16) % 8, jnp.ones(16)
)
method = humble()
apply = lambda r: method.update(ej.Signal.start(r), method.init(None), ej.Context(r))[0].weight
np.testing.assert_allclose(apply(batch)[:, 1:], 1 - 0.9 / 64, rtol=1e-6)  # eight equal actions: p = 1/8
certain = batch.replace(old_logp=jnp.zeros_like(batch.old_logp))
np.testing.assert_allclose(apply(certain), 0.1, rtol=1e-5)
np.testing.assert_allclose(jax.jit(apply)(batch), apply(batch), rtol=1e-6)
print("three properties hold")

# %% [markdown]
# Does it do what it should? On a softmax bandit that trains through entjax's own step, several seeds in one compiled run, beside
# GRPO. (For a language model: `objective=` in a config, and `entjax train`.)

# %%
group = ej.advantages.group_normalize
runs = {}
for name, objective in {"grpo": ej.Objective(group()), "humble": ej.Objective(group(), humble())}.items():
    go = jax.jit(jax.vmap(lambda key: bandit.run(objective, key, steps=int(STEPS))))
    runs[name] = jax.device_get(go(jax.random.split(jax.random.key(1), int(SEEDS))))
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
for name, color in (("grpo", "#9a9a9a"), ("humble", "#1f6feb")):
    left.plot(runs[name]["exact_entropy"].T, color=color, label=None)
    right.plot(runs[name]["reward"].T, color=color)
    entropy, reward = runs[name]["exact_entropy"][:, -1].mean(), runs[name]["reward"][:, -20:].mean()
    print(f"{name:8} entropy {entropy:.3f}  reward {reward:.3f}")
left.set(xlabel="step", ylabel="entropy (nats): grpo grey, humble blue")
right.set(xlabel="step", ylabel="reward")

# %% [markdown]
# Less than hoped: reward and entropy hardly move. One suspect is Adam: in a table every state has its parameters for itself, and
# what shrinks all gradients of a state, Adam's normalisation undoes. A method costs ten lines here, and so does its refutation.
