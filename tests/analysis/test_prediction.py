"""One more update of a run, predicted and measured, also for objectives that need more than a plain rollout."""

import jax
import numpy as np
import pytest

from entjax import setup
from entjax.analysis.prediction import make_probe, one_update
from tests.rollouts import world


@pytest.mark.parametrize("recipe", ["grpo_kl", "echo", "erpo", "aepo"])
def test_an_update_is_measured_whatever_the_recipe_needs(recipe):
    parts = setup.build(world.config(recipe=recipe, minibatches=1))
    state = parts.fresh_state()
    probe = make_probe(parts.model, setup.chunk_of(parts.config, None))
    state, found = one_update(parts, state, 0, probe)
    parts.close()
    assert int(state.step) == 1 and np.isfinite(list(found.predicted.values())).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))
