"""The rule that maps logical axes to mesh axes, the shardings of states, and the sentences about meshes that do not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P

from entjax.models import Decoder, abstract_params, tiny
from entjax.recipes import grpo
from entjax.sharding import Layout, MeshError, ShardingRules, beside, make_mesh, mesh_sizes, mirror, resharder
from entjax.step import init_train_state
from tests.sharding.runs import config

CONFIG = tiny(vocab=24, width=32, layers=2, heads=4, kv_heads=2, scan_layers=True, tied=False)


def layout(shape, rules=None):
    return Layout(make_mesh(shape), rules or ShardingRules())


def test_minus_one_takes_what_is_left():
    assert mesh_sizes({"replica": 2, "fsdp": -1, "tensor": 4}, 64) == {"replica": 2, "fsdp": 8, "tensor": 4}
    assert dict(make_mesh({"a": 2, "b": -1}).shape) == {"a": 2, "b": 4}


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"fsdp": 3}, "fsdp:3 is for 3 devices, but there are 8"),
        ({"fsdp": 3, "tensor": -1}, "3 times something"),
        ({"fsdp": -1, "tensor": -1}, "at most one"),
        ({"fsdp": 0}, "whole numbers"),
        ({}, "no axes"),
    ],
)
def test_meshes_that_do_not_fit_the_devices(shape, message):
    with pytest.raises(MeshError, match=message):
        make_mesh(shape)


def test_weights_are_cut_where_the_rules_say():
    shardings = layout({"replica": 2, "fsdp": 2, "tensor": 2}).weights(abstract_params(CONFIG))
    spec = lambda variable: variable.get_value().spec
    assert spec(shardings["embedding"]) == P("tensor", "fsdp")
    assert spec(shardings["unembedding"]) == P("fsdp", "tensor")
    assert spec(shardings["layers"]["query"]) == P(None, "fsdp", "tensor", None)
    assert spec(shardings["layers"]["down"]) == P(None, "tensor", "fsdp")
    assert spec(shardings["norm"]) == P(None)


def test_what_does_not_divide_stays_whole():
    """Two key heads cannot be cut in four; a vocabulary of 24 goes on eight devices, one of 20 takes the first axis alone."""
    four = layout({"fsdp": 2, "tensor": 4})
    assert four.spec(("embed", "kv_heads", "head_dim"), (32, 2, 8)) == P("fsdp", None, None)
    both = layout({"fsdp": 2, "tensor": 4}, ShardingRules(vocab=("tensor", "fsdp")))
    assert both.spec(("vocab", "embed"), (24, 32)) == P(("tensor", "fsdp"), None)
    assert both.spec(("vocab", "embed"), (20, 32)) == P("tensor", "fsdp")


def test_any_axis_names():
    rules = ShardingRules().named(replica="slices", fsdp="x", tensor="y")
    odd = layout({"slices": 2, "x": 2, "y": 2}, rules)
    assert (
        odd.spec(("embed", "mlp"), (32, 64)) == P("x", "y")
        and odd.row_axes == ("slices", "x")
        and odd.row_shards == 4
    )
    with pytest.raises(MeshError, match=r"axis 'slices'.*named\(fsdp='slices'\)"):
        layout({"slices": 2, "fsdp": 4}).check(config())
    with pytest.raises(MeshError, match="32 rows cannot be shared by 64 devices"):
        Layout(jax.sharding.AbstractMesh((64,), ("fsdp",)), ShardingRules()).check(config())


@pytest.fixture(scope="module")
def made():
    """(layout, model): a decoder whose weights were drawn in pieces on eight devices."""
    here = layout({"fsdp": 4, "tensor": 2})
    return here, here.create(lambda: Decoder(CONFIG, rngs=nnx.Rngs(3)))


def test_weights_for_the_sampler_may_stay_whole(made):
    rules = ShardingRules().without("fsdp")
    assert rules.embed == () and rules.batch == ("replica", "fsdp")
    params = nnx.split(made[1])[1]
    moved = resharder(made[0]._replace(rules=rules), params, "bfloat16")(params)
    assert moved["layers"]["gate"][...].sharding.spec == P(None, None, "tensor")
    assert moved["layers"]["gate"][...].dtype == jnp.bfloat16
    np.testing.assert_array_equal(
        np.asarray(moved["embedding"][...]), np.asarray(params["embedding"][...].astype(jnp.bfloat16))
    )


def test_a_model_made_in_pieces_has_the_weights_of_one_made_whole(made):
    pieces = nnx.split(made[1])[1]
    whole = nnx.split(Decoder(CONFIG, rngs=nnx.Rngs(3)))[1]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), pieces, whole)
    wanted = made[0].weights(pieces)
    assert all(
        jax.tree.leaves(jax.tree.map(lambda a, s: a.sharding.is_equivalent_to(s, a.ndim), pieces, wanted))
    )


def test_optimizer_states_lie_beside_their_weights(made):
    """Adam's moments are cut like the weights, counters and the key are everywhere, factored moments stay whole."""
    here, model = made
    graphdef, params = nnx.split(model)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
    state = beside(
        lambda p: init_train_state(nnx.merge(graphdef, p), grpo(), optimizer, jax.random.key(0)), params
    )
    adam = state.opt_state[1][0]
    for moment in (adam.mu, adam.nu, state.params):
        assert moment["layers"]["query"][...].sharding.spec == P(None, "fsdp", "tensor", None)
    for leaf in (adam.count, state.step, state.key):
        assert leaf.sharding.is_fully_replicated and len(leaf.sharding.device_set) == 8
    factored = jax.eval_shape(optax.scale_by_factored_rms(min_dim_size_to_factor=8).init, params)
    placed = mirror(factored, params, here.weights(params))
    assert placed.v_row["layers"]["gate"].get_value().spec == P()
