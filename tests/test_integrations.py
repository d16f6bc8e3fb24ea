"""The code of docs/integrations.md runs as printed, from the arrays that it says are yours."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tests import tiny

PAGE = Path(__file__).parent.parent / "docs" / "integrations.md"


def test_the_snippets_run_on_plain_arrays():
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    blocks = [block for block in blocks if "needs google-tunix" not in block]
    assert len(blocks) == 3
    graphdef, params = nnx.split(tiny.model())
    given = tiny.rollout(groups=(4, 4))

    def apply(params, tokens):
        model = nnx.merge(graphdef, params)
        return model(tokens) @ model.head()

    yours = {
        "apply": apply, "params": params, "tokens": given.tokens, "mask": given.mask, "rewards": given.reward,
        "group": given.group, "old_logp": given.old_logp, "entropy": given.entropy,
    }  # fmt: skip
    exec(compile(blocks[0], PAGE.name, "exec"), yours)
    assert max(float(jnp.abs(g).max()) for g in jax.tree.leaves(yours["grads"])) > 1e-4
    exec(compile(blocks[1], PAGE.name, "exec"), yours)
    weights, mask = np.asarray(yours["token_weights"]), np.asarray(given.mask)
    highest = np.sort(np.asarray(given.entropy)[mask])[-int(np.ceil(0.2 * mask.sum())) :]
    kept = mask & (np.asarray(given.entropy) >= highest[0])
    centred = np.asarray(given.reward).reshape(2, 4)
    spread = centred.std(1).repeat(4) > 0
    np.testing.assert_array_equal(weights != 0, kept & spread[:, None])
    exec(compile(blocks[2], PAGE.name, "exec"), yours)
    budget = yours["state"]["per_step"]["entropy_budget"]
    assert any(
        float(jnp.abs(x).max()) > 0 for x in jax.tree.leaves(budget)
    )  # the controller has seen the batch
    assert "entropy_budget/budget" in yours["metrics"]
