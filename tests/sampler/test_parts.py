"""A batch in parts side by side on a CPU: the same sequences, the same programs, one part at a time on the host."""

import dataclasses
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from entjax.sampler import Sampling, multiple_of
from entjax.sampler.parts import count_parts, shapes_of_part, side_by_side
from entjax.sampler.shapes import Shapes
from entjax.sampler.state import OUTPUTS
from tests.sampler.conftest import HOW, PROMPTS, spell

KEY = jax.random.key(7)
TWO = {"rows": multiple_of(1), "threads": 2}
ONE = TWO | {"threads": 1}
STRINGS = Sampling(max_new_tokens=12, stop_strings=("a", "ef"))


@pytest.fixture
def started(monkeypatch):
    """How many threads were started to decode."""
    names, start = [], threading.Thread.start

    def noted(thread):
        names.append(thread.name)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", noted)
    return lambda: sum(name.startswith("decode") for name in names)


@pytest.mark.parametrize("how", [HOW, STRINGS], ids=["plain", "stop strings"])
@pytest.mark.parametrize("shapes", [{}, {"at_once": 32, "block": 4}], ids=["at once", "refilled"])
def test_parts_give_the_sequences_of_the_whole(world, started, how, shapes):
    prompts = [*PROMPTS, *([[*p, 9] for p in PROMPTS] if shapes else [])]
    temperature = np.linspace(0.7, 1.3, 8 * len(prompts))  # one for each sequence
    how = dataclasses.replace(how, temperature=temperature)
    ids = np.arange(len(prompts)) * 3 + 5
    run = lambda which: world.with_shapes(**shapes, **which).generate(
        world.params, prompts, how, key=KEY, step=2, samples=8, prompt_ids=ids
    )
    whole = run(ONE)
    assert started() == 0
    parts = run(TWO)
    assert started() == 2
    for name in (*OUTPUTS, "group"):
        a, b = getattr(whole, name), getattr(parts, name)
        assert a.shape == b.shape and a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 if a.dtype == np.float32 else 0, err_msg=name)


def test_prompts_are_shared_within_a_part(world):
    """Long prompts keep their keys and values once for all samples, in parts too, where lengths differ between the parts."""
    long = [list(range(2, 2 + n)) for n in (9, 16, 3, 5)]
    shapes = {"share": 8, "shrink": 0}
    run = lambda which: world.with_shapes(**shapes, **which).generate(
        world.params, long, HOW, key=KEY, samples=8
    )
    whole, parts = run(ONE), run(TWO)
    np.testing.assert_array_equal(whole.tokens, parts.tokens)
    np.testing.assert_allclose(whole.logp, parts.logp, rtol=0, atol=1e-5)


def test_the_parts_run_the_same_programs(world):
    """And wait for each other while one is compiled."""
    sampler = world.with_shapes(**TWO, shrink=0)
    prompts = [[3, 4, 5, 6, 7, 8]] * 2
    programs = (sampler.device.advance, sampler.device.begin, sampler.device.some)
    before = [f._cache_size() for f in programs]
    sampler.generate(world.params, prompts, Sampling(24), key=KEY, samples=17)
    assert [f._cache_size() - n for f, n in zip(programs, before, strict=True)] == [1, 1, 1]


def test_text_is_asked_by_one_part_at_a_time(world):
    busy = threading.Lock()

    def alone(ids):
        assert busy.acquire(blocking=False)
        try:
            return spell(ids)
        finally:
            busy.release()

    sampler = world.with_shapes(**TWO, block=2)._replace(text=alone)
    assert sampler.generate(world.params, PROMPTS, STRINGS, key=KEY, samples=8).finished.any()


def test_an_error_in_a_part_is_raised(world):
    def broken(ids):
        raise RuntimeError("no such token")

    sampler = world.with_shapes(**TWO)._replace(text=broken)
    with pytest.raises(RuntimeError, match="no such token"):
        sampler.generate(world.params, PROMPTS, STRINGS, key=KEY, samples=8)


def test_threads_have_the_settings_of_their_caller():
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        found = side_by_side(lambda i: (jnp.zeros(i).dtype, jax.default_matmul_precision.value), 2)
    assert found == [(jnp.float64, "highest")] * 2
    assert side_by_side(lambda i: jnp.zeros(i).dtype, 2) == [jnp.float32] * 2


@pytest.mark.parametrize(
    ("prompts", "rows", "threads", "parts"),
    [
        (8, 64, 2, 2),
        (8, 64, 8, 4),  # 16 rows in each
        (6, 96, 5, 3),  # as many prompts in each
        (7, 56, 4, 1),
        (8, 24, 4, 1),
        (8, 64, 1, 1),
    ],
)
def test_how_many(prompts, rows, threads, parts):
    assert count_parts({"w": jnp.zeros((4, 4))}, prompts, rows, threads) == parts


def test_large_models_want_more_rows_in_a_part():
    weights = {"w": jnp.zeros((40, 1_000_000), jnp.int8)}
    assert [count_parts(weights, 8, rows, 2) for rows in (48, 56)] == [1, 2]


def test_the_buckets_of_a_part_are_those_of_the_whole():
    part = shapes_of_part(Shapes(rows=multiple_of(32), at_once=128), 2)
    assert [part.rows(size) for size in (16, 17, 32)] == [16, 32, 32]
    assert part.at_once == 64
