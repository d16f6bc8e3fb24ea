"""A mesh changes where things are computed and not what: tokens, loss and gradient of a step, then the curves of a run."""

import jax
import numpy as np
import pytest

from entjax import packing, setup
from entjax.aot import hlo
from entjax.models.lora import OUTPUT
from entjax.rollouts import to_rollout
from entjax.sharding import ShardingRules
from entjax.train import train
from tests.sharding.runs import LENGTH, ROWS, config, curves, first_difference, largest_gap, one_step

ODD = {"mesh": {"Rows": 2, "Left": 4}, "sharding": ShardingRules().named(fsdp="Rows", tensor="Left")}
MESHES = {
    "8": {"mesh": {"fsdp": 8}},
    "2x4": {"mesh": {"fsdp": 2, "tensor": 4}},
    "4x2": {"mesh": {"fsdp": 4, "tensor": 2}},
    "2x2x2": {"mesh": {"replica": 2, "fsdp": 2, "tensor": 2}},
    "odd names": ODD,
    "sequence": {"mesh": {"fsdp": 2, "sequence": 2, "tensor": 2}},
    "sampler of its own": {
        "mesh": {"fsdp": 4, "tensor": 2},
        "sampler_sharding": ShardingRules().without("fsdp"),
    },
    "microbatches": {"mesh": {"fsdp": 4, "tensor": 2}, "microbatches": 2},
}
FAST = ("2x2x2",)
CASES = [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in MESHES]


@pytest.fixture(scope="module")
def alone():
    """One device."""
    return one_step(config())


@pytest.fixture
def small_pieces(monkeypatch):
    """Take a pack also where it does not pay, in several pieces: this batch is tiny."""
    monkeypatch.setattr(packing, "MINIMUM_GAIN", 1e9)
    monkeypatch.setattr(packing, "MESH", packing.Grain(8, 32))


@pytest.mark.parametrize("packed", [False, True], ids=["rows", "places"])
@pytest.mark.parametrize("name", CASES)
def test_a_step_on_a_mesh(alone, small_pieces, name, packed):
    tokens, loss, gradient, weights = alone
    got_tokens, got_loss, got_gradient, _ = one_step(config(**MESHES[name]), weights, packed)
    np.testing.assert_array_equal(got_tokens, tokens)
    assert abs(got_loss - loss) < 1e-5
    assert (
        max(np.abs(leaf).max() for leaf in jax.tree.leaves(gradient)) > 1e-2
    )  # there is something to compare
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), got_gradient, gradient)


def test_a_step_of_adapters_beside_eight_bits_on_a_mesh(small_pieces):
    model = config().model.replace(lora=4, int8=True)
    rng = np.random.default_rng(0)  # adapters begin at zero and do nothing

    def moved(path, x):
        return x + 0.3 * rng.normal(size=x.shape).astype("f") if OUTPUT in jax.tree_util.keystr(path) else x

    weights = jax.tree_util.tree_map_with_path(moved, one_step(config(model=model))[3])
    tokens, loss, gradient, _ = one_step(config(model=model), weights)
    got_tokens, got_loss, got_gradient, _ = one_step(
        config(model=model, **MESHES["2x2x2"]), weights, packed=True
    )
    np.testing.assert_array_equal(got_tokens, tokens)
    assert (
        abs(got_loss - loss) < 1e-5 and max(np.abs(leaf).max() for leaf in jax.tree.leaves(gradient)) > 1e-2
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), got_gradient, gradient)


@pytest.mark.parametrize("minibatches", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_families_stay_on_the_devices_of_their_rows(small_pieces, minibatches):
    """No token of a rollout travels: gathering the places of a pack and putting them back is compiled without communication."""
    c = config(mesh={"fsdp": 4, "tensor": 2}, minibatches=minibatches)
    parts = setup.build(c)
    harvest = parts.strategy(parts.tools(parts.fresh_state().params, 0), parts.stream.next(), 0, {})
    parts.close()
    rollout = to_rollout(harvest, rows=ROWS, length=LENGTH, temperature=1.0)
    pack = parts.layout.pack(parts.plan(rollout))
    rollout = parts.layout.rollout(rollout)
    there_and_back = jax.jit(
        lambda pack, x: pack.whole().fold(lambda p, rows: p.scatter(p.gather(x), rows), x * 0)
    )
    assert not hlo.collectives(hlo.parse(there_and_back.lower(pack, rollout.logp).compile().as_text()), 8)
    back = np.asarray(there_and_back(pack, rollout.logp))
    np.testing.assert_array_equal(back, np.where(rollout.mask, rollout.logp, 0))
    assert np.abs(back).sum() > 1


RUN = {"steps": 20, "lr": 1e-2, "minibatches": 2, "save_every": 20}


@pytest.fixture(scope="module")
def run_alone(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "alone"
    train(config(**RUN), workdir)
    return workdir


@pytest.mark.slow
@pytest.mark.parametrize("name", ["8", "2x4", "4x2", "2x2x2"])
def test_a_run_of_twenty_steps_on_a_mesh(run_alone, tmp_path, name, record_property):
    """Sums in another order differ in the last bits; a draw within those bits of a border takes the other token, and from
    there on the runs are two samples of the same process. Before that the numbers agree closely."""
    train(config(**RUN, **MESHES[name]), tmp_path / "run")
    difference = first_difference(run_alone, tmp_path / "run")
    gaps = largest_gap(run_alone, tmp_path / "run")
    print(f"mesh {name}: first differing completion {difference}, largest gaps {gaps}")
    record_property("first_difference", str(difference))
    until = 21 if difference is None else difference[0]
    for a, b in zip(curves(run_alone)[1:until], curves(tmp_path / "run")[1:until], strict=True):
        for key in ("reward/mean", "entropy/mean", "loss", "length/mean"):
            assert abs(a[key] - b[key]) < 2e-3, (key, a["step"])
    assert gaps["reward/mean"] < 0.2 and gaps["entropy/mean"] < 0.2
