# %% [markdown]
# # 07 SmolLM2 before and after
# A real model of 135 million parameters learns two-term sums from verified rewards. The run takes most of an hour on two CPU cores, so
# this notebook reads what it left (docs/smollm2.json). The commands that made it:
#
#     entjax convert "$(entjax fetch smollm2)" models/SmolLM2-135M-Instruct
#     entjax train configs/smollm2_arithmetic.py --workdir runs/smollm2
#     entjax export runs/smollm2 runs/smollm2-hf
#     python -m entjax.studies.before_after runs/smollm2 runs/smollm2-hf

# %%
ANSWERS = 6

# %%
import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from entjax.analysis import entropy_law

here = Path("docs") if Path("docs/smollm2.json").is_file() else Path("../docs")
found = json.loads((here / "smollm2.json").read_text())
for point in found["evaluations"]:
    print(
        f"step {point['step']:3d}  held-out pass@1 {point['pass@1']:.3f}  pass@4 {point['pass@4']:.3f}  entropy {point['entropy']:.2f} nats"
    )
print(
    f"greedy: {found['greedy']['before']:.1%} before, {found['greedy']['after']:.1%} after; transformers on the exported folder {found['transformers']:.1%}"
)

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
left.plot(found["steps"], found["reward"])
left.plot(
    [p["step"] for p in found["evaluations"]],
    [p["pass@1"] for p in found["evaluations"]],
    "o--",
    color="black",
)
left.set(xlabel="step", ylabel="reward; dots: held-out pass@1", ylim=(0, 1))
right.plot(found["steps"], found["entropy"], color="#d1495b")
right.set(xlabel="step", ylabel="policy entropy (nats)", ylim=(0, None))
# %% [markdown]
# Most of the entropy at the start is not about arithmetic: the model wonders which sentence to write. That goes first, and the reward
# comes with it. What the law R = -a e^H + b makes of that:

# %%
h, r = np.array(found["entropy"]), np.array(found["reward"])
law = entropy_law.fit(h, r)
print(f"R = {-law.a:.3f} e^H + {law.b:.3f}, R² {law.r2:.2f} over {len(h)} steps; ceiling {law.ceiling:.2f}")

# %%
for a in found["answers"][: int(ANSWERS)]:
    print(a["question"])
    print(
        f"   before: {a['before']!r} ({'right' if a['right_before'] else 'wrong'})   after: {a['after']!r} ({'right' if a['right_after'] else 'wrong'})"
    )
