# %% [markdown]
# # 06 Branching and decoding
# Where does a completion branch, is it worth branching there, and what do decoding rules do with the entropy? On the warm start of
# the quickstart.

# %%
PROMPTS, SAMPLES, BRANCHES, RULES = 32, 16, 8, 6

# %%
import jax
import matplotlib.pyplot as plt
import numpy as np
from flax import nnx

import entjax as ej
from entjax.analysis.branching_factor import branching_factor
from entjax.analysis.passk import pass_at_k
from entjax.analysis.token_entropy import concentration, forks
from entjax.passes import policy_features
from entjax.rollouts.groups import sample_groups

config = ej.config.load_config("quickstart.py").override(
    {"eval_prompts": int(PROMPTS), "eval_samples": int(SAMPLES), "eval_k": (1,)}
)
parts = ej.setup.build(config)
graphdef, params = nnx.split(parts.model)
tools = parts.tools(params, 0, samples=int(SAMPLES), held_out=True)
harvest = sample_groups(tools, parts.eval_examples, 0)
c = harvest.completions

# %% [markdown]
# ## Where it branches
# The branching factor counts the tokens that top-p 0.95 would keep.

# %%
rollout = ej.rollouts.to_rollout(harvest, rows=len(harvest.texts), length=32, temperature=1.0)
look = jax.jit(
    lambda rows: policy_features(graphdef, params, None, rows, {"factor": branching_factor(0.95)}, 2048)
)
factor = np.asarray(look(rollout)["factor"])[np.asarray(rollout.mask)]
print(
    f"mean branching factor {factor.mean():.2f}; {np.mean(factor == 1):.0%} of the tokens have one continuation"
)
print(f"a fifth of the tokens carries {concentration(c.entropy, c.mask):.0%} of the entropy")
print(
    "forks:",
    ", ".join(
        f"{f.token!r} {f.entropy:.2f} nats ({f.forks}/{f.count})"
        for f in forks(c.tokens, c.entropy, c.mask, parts.tokenizer.decode)[:6]
    ),
)
position = np.arange(c.mask.shape[1])[None] - c.prompt_length[:, None]
figure, axis = plt.subplots(figsize=(7, 3), layout="constrained")
axis.bar(
    range(19),
    [
        c.entropy[c.mask & (position == t)].mean() if (c.mask & (position == t)).any() else 0
        for t in range(19)
    ],
)
axis.set(xlabel="token of the answer", ylabel="mean entropy (nats)")
# %% [markdown]
# ## Is it worth branching there?
# Wrong answers are cut at their token of highest entropy, or at a random one, and continued: how often is the continuation right?
# The start is there for comparison: a fresh answer.

# %%
rng = np.random.default_rng(0)
wrong = np.flatnonzero(harvest.reward < 1)[:64]
cuts = {"highest entropy": [], "random": [], "the start": [int(c.prompt_length[row]) for row in wrong]}
for row in wrong:
    at = np.flatnonzero(c.mask[row])
    cuts["highest entropy"].append(int(at[np.argmax(c.entropy[row, at])]))
    cuts["random"].append(int(rng.choice(at)))
for name, where in cuts.items():
    prefixes = [c.tokens[row, :cut].tolist() for row, cut in zip(wrong, where, strict=True)]
    again = tools.generate(prefixes, samples=int(BRANCHES))
    texts = []
    for i, row in enumerate(np.repeat(wrong, int(BRANCHES))):
        whole = again.tokens[i, c.prompt_length[row] : again.length[i]].tolist()
        texts.append(parts.tokenizer.decode([t for t in whole if t != parts.tokenizer.eos_id]))
    reward, _ = tools.score([harvest.examples[row] for row in np.repeat(wrong, int(BRANCHES))], texts)
    position = np.mean(where) - c.prompt_length[wrong].mean()
    print(f"cut at {name:16} mean position {position:.1f}, continuation right {reward.mean():.1%}")

# %% [markdown]
# Here the token of highest entropy is nearly always the first one, where the plan is made: to branch there is to begin anew, no better
# and no worse. To branch late is to keep the mistake.

# %% [markdown]
# ## Decoding rules
# A rule is a transform of the logits; rules compose with the same `chain` as methods do.

# %%
d = ej.decoding
rules = {
    "policy": None,
    "temperature 0.7": d.temperature(0.7),
    "top-p 0.9": d.top_p(0.9),
    "min-p 0.1": d.min_p(0.1),
    "typical 0.9": d.typical(0.9),
    "top-n-sigma 1": d.top_n_sigma(1.0),
}
for name, rule in list(rules.items())[: int(RULES)]:
    key = jax.random.key(1)
    out = tools.generate([parts.encode(e) for e in parts.eval_examples], rules=rule, key=key)
    texts = [parts.tokenizer.decode(out.completion(i)) for i in range(len(out.length))]
    examples = [e for e in parts.eval_examples for _ in range(int(SAMPLES))]
    right = (tools.score(examples, texts)[0] >= 1).reshape(-1, int(SAMPLES))
    entropy = out.sampled_entropy[out.mask].mean()
    best = pass_at_k(int(SAMPLES), right.sum(1), int(SAMPLES)).mean()
    print(f"{name:16} entropy {entropy:.3f}  pass@1 {right.mean():.3f}  pass@{SAMPLES} {best:.3f}")
parts.scorer.close()
