"""Counts of arithmetic against XLA's on an unrolled model, the ceilings, and the verdicts."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from entjax import cli
from entjax.aot import flops, report
from entjax.aot.chips import CHIPS, chip_of
from entjax.aot.programs import Report, Sizes
from entjax.config import load_config
from entjax.models import Decoder, tiny
from entjax.models.lora import split, together


def test_forward_operations_are_those_that_xla_counts():
    """An unrolled forward pass with head; matrices of a width at which norms and softmax hardly count."""
    c = tiny(vocab=2048, width=256, layers=2, heads=4, kv_heads=2, context=64)
    graphdef, params = nnx.split(nnx.eval_shape(lambda: Decoder(c, rngs=nnx.Rngs(0))))
    tokens = jax.ShapeDtypeStruct((4, 64), jnp.int32)

    def forward(params, tokens):
        model = nnx.merge(graphdef, params)
        return model(tokens) @ model.head()

    counted = jax.jit(forward).lower(params, tokens).compile().cost_analysis()["flops"]
    mine = 4 * 64 * (2 * flops.matrices(c) + flops.attention(c, 64) + 2 * flops.head(c))
    assert abs(counted / mine - 1) < 0.05


def test_what_an_update_costs():
    """Model: three forwards with half the attention. Hardware: the masked half too, and a fourth forward of the layers."""
    c = tiny(vocab=100, width=64, layers=2, heads=4, context=64, remat="full")
    sizes = Sizes(rows=8, length=32, prompts=2, prompt=16, new=16, at_once=8)
    work = flops.work_of(c, sizes, "update")
    layers, attention, head = 2 * flops.matrices(c), flops.attention(c, 32), 2 * flops.head(c)
    assert work.model == 256 * 3 * (layers + attention / 2 + head)
    assert work.hardware == 256 * (4 * (layers + attention) + 3 * head)


def test_what_an_update_of_adapters_costs():
    """Frozen weights are passed through twice instead of three times: as the compiled gradient, whose attention is whole."""
    c = tiny(vocab=2048, width=256, layers=2, heads=4, kv_heads=2, context=64).replace(lora=8)
    model = Decoder(c, rngs=nnx.Rngs(0))
    graphdef, params = nnx.split(model)
    adapters, frozen = split(params)

    def loss(adapters, frozen, tokens):
        model = nnx.merge(graphdef, together(adapters, frozen))
        return jnp.sum((model(tokens) @ model.head()) ** 2)

    tokens = jnp.zeros((4, 64), jnp.int32)
    counted = jax.jit(jax.grad(loss)).lower(adapters, frozen, tokens).compile().cost_analysis()["flops"]
    sizes = Sizes(rows=4, length=64, prompts=1, prompt=16, new=48, at_once=4)
    mine, whole = flops.work_of(c, sizes, "update"), flops.work_of(c.replace(lora=0), sizes, "update")
    assert abs(counted / mine.hardware - 1) < 0.1 < 1 - mine.hardware / whole.hardware


def fake(**changes):
    sizes = {
        "arguments": 2e9,
        "temporaries": 3e9,
        "peak": 4e9,
        "traffic": 819e9,
        "collectives": {"all-gather": 2e9},
    }
    base = {
        "program": "update",
        "seconds": 1.0,
        "cpu": 2.0,
        "work": flops.Work(16 * 98.5e12, 16 * 197e12, 1),
        **sizes,
    }
    return Report(**{**base, **changes})


def plan(own_weights=True):
    config = SimpleNamespace(sampler_sharding="rules" if own_weights else None)
    return SimpleNamespace(chip=CHIPS["v5e"], chips=16, config=config, weights_of_device=int(5e9))


PLAN = plan()


def test_times_are_the_ceilings():
    """One second of arithmetic, one of memory, 10 ms of links; half of the arithmetic is the model's."""
    t = report.times(fake(), CHIPS["v5e"], 16)
    np.testing.assert_allclose(t, (1.0, 1.0, 0.01))
    assert report.mfu(fake(), CHIPS["v5e"], 16) == pytest.approx(0.5)
    assert report.times(fake(traffic=2 * 819e9), CHIPS["v5e"], 16).limit == "memory"


def test_what_cannot_fit_is_refused():
    assert report.faults([fake()], PLAN) == []
    assert "update needs 17.0 of the 15.4 GB" in report.faults([fake(temporaries=15e9)], PLAN)[0]
    assert "does not fit: Ran out" in report.faults([fake(fault="Ran out of memory")], PLAN)[0]
    both = [fake(), fake(program="decode", arguments=12e9)]
    assert "sampling beside the trainer's state needs 17.0 of the 15.4 GB" in report.faults(both, PLAN)[0]
    copied = [fake(), fake(program="decode"), fake(program="reshard", arguments=5e9, temporaries=12e9)]
    assert report.resident(copied, PLAN) == 2e9 + (5 + 12 - 5) * 1e9  # moving the weights is what needs most
    assert report.faults(both, plan(own_weights=False)) == []  # 5 GB of weights are counted once: 12 GB


def test_meshes_of_a_sweep():
    sizes = tiny(vocab=20, width=1536, layers=1, heads=8, kv_heads=2, context=64)
    assert report.meshes(16, 64, sizes) == [{"fsdp": 16}, {"fsdp": 8, "tensor": 2}]
    many = dataclasses.replace(sizes, kv_heads=8)
    assert report.meshes(16, 8, many) == [
        {"fsdp": 8, "tensor": 2},
        {"fsdp": 4, "tensor": 4},
        {"fsdp": 2, "tensor": 8},
    ]
    odd = dataclasses.replace(
        sizes, width=3584, heads=28, head_dim=128, kv_heads=1
    )  # 56 and 112 rows a piece
    assert report.meshes(64, 64, odd) == [{"fsdp": 64}, {"replica": 2, "fsdp": 32}]


@pytest.mark.parametrize("topology", ["v9:2x2", "v5e"])
def test_topologies_that_do_not_exist(topology):
    with pytest.raises(ValueError, match=r"v5e:4x4.*Chips: v4, v5e"):
        chip_of(topology)


def test_shipped_configs_can_be_read_without_data(capsys):
    for name in (
        "qwen25_math_1_5b",
        "qwen25_math_1_5b_gpu",
        "gemma3_1b",
        "qwen25_math_7b",
        "qwen3_4b",
        "qwen3_8b",
        "qwen3_8b_lora",
        "llama31_8b",
    ):
        config = load_config(f"configs/{name}.py")
        with pytest.raises(FileNotFoundError, match="is missing"):
            config.task.example(0)
    assert cli.main(["compile", "configs/qwen3_4b.py", "--topology", "v6e:4x4", "--programs", "updat"]) == 2
    assert "choose from update" in capsys.readouterr().err
