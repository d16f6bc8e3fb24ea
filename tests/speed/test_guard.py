"""Speed cannot be asserted on a shared machine; what it comes from can: arithmetic, memory, compilations, collectives."""

import json
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from flax import nnx

import entjax as ej
from entjax import decoding, packing
from entjax.models import Decoder
from entjax.sampler import Sampling, make_sampler
from tests.speed import measured
from tests.speed.count import flops

EXPECTED = json.loads((Path(__file__).parent / "expected.json").read_text())
SAME_COMPILER = EXPECTED["jax"] == jax.__version__


@pytest.mark.parametrize(
    "part", [measured.updates, measured.sampler_step, measured.vocabulary], ids=lambda f: f.__name__
)
def test_arithmetic_and_memory_stay(part):
    for name, found in part().items():
        assert found["flops"] == pytest.approx(EXPECTED[name]["flops"], rel=0.05), name
        if SAME_COMPILER:
            assert found["temporary bytes"] == pytest.approx(EXPECTED[name]["temporary bytes"], rel=0.05), (
                name
            )


@pytest.mark.skipif(not SAME_COMPILER, reason="the number of collectives is the compiler's choice")
def test_collectives_stay():
    expected = EXPECTED["collectives of the update"]
    found = measured.collectives()["collectives of the update"]
    assert found.keys() == expected.keys()
    for kind, count in found.items():
        assert count == pytest.approx(expected[kind], rel=0.05), kind


def test_a_pack_saves_the_prompts_that_it_shares():
    """Four rows of 40 + 24 tokens a group: 64 places each as plain rows, 40 + 4 * 24 together."""
    found = measured.updates()
    for what in ("flops", "temporary bytes"):
        assert found["update, packed"][what] < 0.75 * found["update, plain"][what], what


def test_the_counter_counts():
    a, b = np.ones((3, 5), np.float32), np.ones((5, 7), np.float32)
    thrice = lambda a, b: jax.lax.scan(
        lambda c, _: (c + a @ b, None), jax.numpy.zeros((3, 7)), None, length=3
    )[0]
    assert flops(thrice, a, b) == 3 * 2 * 3 * 5 * 7
    assert flops(jax.grad(lambda a, b: (a @ b).sum(), (0, 1)), a, b) == 2 * 2 * 3 * 5 * 7 + 2 * 3 * 5 * 7


def test_the_number_of_programs_is_bounded():
    """Batches of different lengths: an update is compiled for a few of them; temperature and top-p compile nothing."""
    model = Decoder(measured.CONFIG, rngs=nnx.Rngs(0))
    rng, cost, shapes = np.random.default_rng(0), packing.Cost.of(measured.CONFIG), set()
    for _ in range(200):
        batch = measured.rollout()
        ends = measured.PROMPT + rng.integers(1, measured.NEW + 1, len(batch.mask))
        batch = batch.replace(mask=batch.mask & (np.arange(batch.mask.shape[1])[None] < ends[:, None]))
        pack = packing.plan(batch, cost)
        shapes.add(None if pack is None else (*pack.places.row.shape, pack.places.width))
    assert len(shapes) <= 4

    sampler, params = make_sampler(model, eos_ids=[1]), nnx.split(model)[1]
    for temperature, p in ((1.0, 0.9), (0.7, 0.5), (1.3, 0.95)):
        rules = ej.chain(decoding.top_p(p))
        sampler.generate(
            params, [[5, 6, 7]], Sampling(8, temperature, rules), key=jax.random.key(0), samples=2
        )
        programs = sampler.device.advance._cache_size()
        assert programs == 1, (temperature, p)


def test_a_step_is_compiled_once():
    model = Decoder(measured.CONFIG, rngs=nnx.Rngs(0))
    state = ej.init_train_state(model, ej.recipes.grpo(), optax.adamw(1e-3), jax.random.key(0))
    step, batch = (
        ej.make_train_step(model, ej.recipes.grpo(), optax.adamw(1e-3), chunk=128),
        measured.rollout(),
    )
    pack = packing.plan(batch, packing.Cost.of(measured.CONFIG))
    for seed in range(3):
        reward = np.random.default_rng(seed).random(len(batch.reward)).astype(np.float32)
        state, _ = step(state, batch.replace(reward=reward), pack)
    assert step._cache_size() == 1
