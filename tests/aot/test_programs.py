"""What is compiled ahead of time is what a run calls: the same shapes, types and places, and the same programs."""

import jax
import numpy as np
import pytest

from entjax import packing, setup
from entjax.aot import programs
from entjax.aot.chips import CHIPS
from entjax.aot.programs import Plan, Sizes
from entjax.rollouts import to_rollout
from entjax.sharding import ShardingRules
from tests.sharding.runs import LENGTH, ROWS, config

MESH = {"fsdp": 4, "tensor": 2}
NEW = 9


def plan_of(parts):
    """The plan that `entjax compile` would make, for the devices that are there."""
    sizes = Sizes(rows=ROWS, length=LENGTH, prompts=4, prompt=LENGTH - NEW, new=NEW, at_once=ROWS)
    return Plan(parts.config, CHIPS["v5e"], parts.layout, parts.model, sizes)


def same_arguments(planned, real):
    """Equal trees of equal shapes, types and shardings."""
    assert jax.tree.structure(planned) == jax.tree.structure(real)

    def check(path, want, got):
        where = jax.tree_util.keystr(path)
        assert (want.shape, want.dtype) == (got.shape, got.dtype), where
        assert want.sharding.is_equivalent_to(got.sharding, got.ndim), (where, want.sharding, got.sharding)

    jax.tree_util.tree_map_with_path(check, planned, real)


@pytest.mark.parametrize(
    ("recipe", "minibatches", "wanted", "reads"),
    [
        ("steer", 2, ["update", "score", "reshard", "prefill", "decode"], 0.5),
        ("reinforce", 1, ["update", "reshard", "prefill", "decode"], 0.0),
    ],
)
def test_the_update_that_runs_is_the_one_that_is_compiled(recipe, minibatches, wanted, reads, monkeypatch):
    """State and batch of a real step against the shapes of the plan; a batch that needs no scoring is planned without."""
    monkeypatch.setattr(packing, "MINIMUM_GAIN", 1e9)  # a pack also where it does not pay: this batch is tiny
    own = ShardingRules().without("fsdp")
    parts = setup.build(config(mesh=MESH, recipe=recipe, minibatches=minibatches, sampler_sharding=own))
    plan = plan_of(parts)
    assert plan.wanted == wanted and plan.reads == reads
    state = parts.fresh_state()
    harvest = parts.strategy(parts.tools(state.params, 0), parts.stream.next(), 0, {})
    rollout = to_rollout(harvest, rows=ROWS, length=LENGTH, temperature=1.0)
    pack = parts.layout.pack(parts.plan(rollout))
    rollout = parts.layout.rollout(parts.score(state, rollout, pack))
    parts.close()
    same_arguments(programs.scored_rollout(plan), rollout)
    full_rows = programs.packed(plan)  # other shapes than this batch's, the same places
    planned = programs.pack_shapes(plan, full_rows)
    assert pack is not None and jax.tree.structure(planned) == jax.tree.structure(pack)
    for want, got in zip(jax.tree.leaves(planned), jax.tree.leaves(pack), strict=True):
        assert want.dtype == got.dtype and want.sharding.is_equivalent_to(got.sharding, got.ndim)
    same_arguments(programs._state(plan), state)
    weights = [x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(state.params)]
    assert plan.weights_of_device == np.sum(weights)
