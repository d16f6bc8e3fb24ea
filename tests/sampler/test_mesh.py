"""On a mesh: sharded weights and rows sample the same tokens as one device, and rows stay where they belong."""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from entjax import decoding
from entjax.sampler import Sampling, Shapes, make_sampler, multiple_of, sequence_keys
from entjax.transform import chain
from tests.sampler.conftest import EOS, PROMPTS, spell

HOW = Sampling(max_new_tokens=12, rules=chain(decoding.top_p(0.95)), stop_strings=["po"])


def mesh_of(data, model):
    devices = np.asarray(jax.devices()[: data * model]).reshape(data, model)
    return Mesh(devices, ("data", "model"), axis_types=(AxisType.Auto, AxisType.Auto))


def sharded(params, mesh):
    """Every matrix cut along its longest axis that divides; the layout itself is not under test."""

    def place(x):
        spec = [None] * x.ndim
        for axis in np.argsort(x.shape)[::-1]:
            if x.ndim > 1 and x.shape[axis] % mesh.shape["model"] == 0:
                spec[axis] = "model"
                break
        return jax.device_put(x, NamedSharding(mesh, PartitionSpec(*spec)))

    return jax.tree.map(place, params)


def test_a_mesh_samples_the_same_tokens(world):
    mesh = mesh_of(4, 2)
    shapes = Shapes(prompt=multiple_of(8), new=multiple_of(8), at_once=8, block=4)
    sampler = make_sampler(
        world.model,
        eos_ids=[EOS],
        text=spell,
        shapes=shapes,
        rows_sharding=NamedSharding(mesh, PartitionSpec("data")),
    )
    key = jax.random.key(3)
    params = sharded(world.params, mesh)
    prompts = PROMPTS[:3]  # three prompts and nine sequences on four pieces: filler is needed
    out = sampler.generate(params, prompts, HOW, key=key, samples=3)
    want = world.sampler.generate(world.params, prompts, HOW, key=key, samples=3)
    for row in range(9):
        assert out.completion(row) == want.completion(row)
        at = out.mask[row]
        np.testing.assert_allclose(out.logp[row][at], want.logp[row][at], rtol=0, atol=1e-5)


def test_rows_stay_on_their_devices(world):
    mesh = mesh_of(8, 1)
    rows = NamedSharding(mesh, PartitionSpec("data"))
    sampler = make_sampler(
        world.model, eos_ids=[EOS], shapes=Shapes(multiple_of(8), multiple_of(8)), rows_sharding=rows
    )
    params = jax.device_put(world.params, NamedSharding(mesh, PartitionSpec()))
    ids = np.arange(16, dtype=np.int32)
    prefix = sampler.prefill(params, PROMPTS)
    how = Sampling(max_new_tokens=8)
    state = sampler.begin(prefix, how, ids % 4, sequence_keys(jax.random.key(0), np.int32(0), ids, ids))
    for now in (state, sampler.decode(params, state, 3), sampler.fork(state, ids[::-1])):
        for leaf in (now.tokens, now.logp, now.done, now.key):
            assert leaf.sharding.is_equivalent_to(rows, leaf.ndim)
        assert now.cache.k[0].sharding.is_equivalent_to(NamedSharding(mesh, PartitionSpec(None, "data")), 5)
    text = sampler.device.decode.lower(params, state, np.int32(3), 16).compile().as_text()
    assert "all-gather" not in text and "all-to-all" not in text  # nothing of a row travels


def test_prompts_are_shared_where_their_rows_are(world):
    mesh = mesh_of(4, 2)
    rows = NamedSharding(mesh, PartitionSpec("data"))
    shapes = Shapes(multiple_of(8), multiple_of(8), share=1)
    sampler = make_sampler(world.model, eos_ids=[EOS], shapes=shapes, rows_sharding=rows)
    params, key = jax.device_put(world.params, NamedSharding(mesh, PartitionSpec())), jax.random.key(3)
    how = Sampling(max_new_tokens=8)
    out = sampler.generate(sharded(world.params, mesh), PROMPTS, how, key=key, samples=4)
    want = world.sampler.generate(world.params, PROMPTS, how, key=key, samples=4)
    for row in range(16):
        assert out.completion(row) == want.completion(row)
        mine, theirs = out.logp[row][out.mask[row]], want.logp[row][want.mask[row]]
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-5)
    source = np.repeat(np.arange(4, dtype=np.int32), 4)
    request = sampler.request(how, source, sequence_keys(key, np.int32(0), source, source))
    state = sampler.device.begin(sampler.prefill(params, PROMPTS), request, 16, shared=True)
    beside = NamedSharding(mesh, PartitionSpec(None, "data"))
    for leaf in jax.tree.leaves((state.cache, sampler.device.decode(params, state, np.int32(3), 8).cache)):
        assert leaf.sharding.is_equivalent_to(beside, leaf.ndim)
    text = sampler.device.decode.lower(params, state, np.int32(3), 8).compile().as_text()
    assert "all-gather" not in text and "all-to-all" not in text
