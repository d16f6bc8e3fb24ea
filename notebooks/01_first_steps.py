# %% [markdown]
# # 01 First steps
# A small policy combines three digits to reach a number, learns from verified answers, and is watched while it does.

# %%
STEPS, PROMPTS, SAMPLES, EVAL = 20, 16, 16, 64

# %%
import random
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import entjax as ej
from entjax.adapters import decide
from entjax.log import read_lines
from entjax.train import train

config = ej.config.load_config("quickstart.py").override(
    {
        "recipe": "grpo",
        "steps": STEPS,
        "prompts": PROMPTS,
        "samples": SAMPLES,
        "eval_every": 0,
        "eval_prompts": EVAL,
    }
)
example = config.task.example(0)
print(example.prompt, "can be answered by", config.task.solution(example, random.Random(0)))

# %% [markdown]
# `train` runs a config in a directory. It returns the held-out evaluation before and after.

# %%
workdir = tempfile.mkdtemp()
result = train(config, workdir)
for name in ("eval/pass@1", "eval/pass@16", "eval/entropy", "eval/distinct_correct"):
    print(f"{name:24}{result['before'][name]:8.3f}{result['after'][name]:8.3f}")

# %%
lines = [line for line in read_lines(Path(workdir) / "metrics.jsonl") if "entropy/mean" in line]
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
left.plot([line["step"] for line in lines], [line["reward/mean"] for line in lines])
left.set(xlabel="step", ylabel="reward")
right.plot([line["step"] for line in lines], [line["entropy/mean"] for line in lines], color="#d1495b")
right.set(xlabel="step", ylabel="policy entropy (nats)")
# %% [markdown]
# A method is a function from a Signal to a Signal. Here is what STEER decides for one batch, token by token: nothing is hidden in
# a trainer, and nothing has a gradient yet.

# %%
parts = ej.setup.build(config.override({"recipe": "steer"}))
state = parts.fresh_state()
harvest, _ = parts.strategy.collect(parts.tools(state.params, 0), parts.stream.next(), 0, {}, {})
rollout = ej.rollouts.to_rollout(harvest, rows=config.rows, length=32, temperature=1.0)
rollout = parts.score(state, rollout)
signal = decide(parts.objective.per_rollout, ej.Signal.start(rollout), rollout)
signal = decide(parts.objective.per_step, signal, rollout, rollout.extra["reads"]["values"])
row = int(np.argmax(np.asarray(rollout.mask).sum(1)))
for t in np.flatnonzero(np.asarray(rollout.mask[row])):
    token = parts.tokenizer.decode([int(rollout.tokens[row, t])])
    entropy, advantage, weight = (x[row, t] for x in (rollout.entropy, signal.advantage, signal.weight))
    print(f"{token!r:5} entropy {entropy:.3f}  advantage {advantage:+.2f}  weight {weight:.3f}")
parts.scorer.close()
