"""Clip ranges: the bounds that they write, schedules, and their surrogates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import entjax as ej
from tests import tiny
from tests.golden.compose import decide

RANGES = [
    (ej.clips.asymmetric(), 0.8, 1.28),
    (ej.clips.asymmetric(3e-4, 4e-4), 1 - 3e-4, 1 + 4e-4),
    (ej.clips.geometric(), np.exp(-0.4), np.exp(0.4)),
    (ej.clips.geometric(0.1, 0.3), np.exp(-0.1), np.exp(0.3)),
    (ej.clips.cap(5.0), 0.0, 5.0),
    (ej.clips.unclipped(), 0.0, np.exp(20.0)),
]


def start():
    rollout = tiny.rollout()
    return rollout, ej.Signal.start(rollout)


@pytest.mark.parametrize("clip,low,high", RANGES, ids=lambda x: getattr(x, "name", ""))
def test_bounds(clip, low, high):
    rollout, signal = start()
    out = decide(clip, signal, rollout, {})
    np.testing.assert_allclose(out.clip_low, np.full(signal.clip_low.shape, low), rtol=1e-6)
    np.testing.assert_allclose(out.clip_high, np.full(signal.clip_low.shape, high), rtol=1e-6)


def test_a_schedule_moves_the_range():
    rollout, signal = start()
    clip = ej.clips.asymmetric(high=ej.control.linear(0.2, 0.4, 2))
    state, seen = clip.init(None), []
    for step in range(4):
        out, state = clip.update(signal, state, ej.Context(rollout, {}, step))
        seen.append(float(out.clip_high[0, 0]))
    np.testing.assert_allclose(seen, [1.2, 1.3, 1.4, 1.4], rtol=1e-6)
    np.testing.assert_allclose(out.metrics["asymmetric/high"], 0.4)


def test_a_wide_enough_range_is_no_clip():
    rollout, signal = start()
    x = jnp.asarray(3 * np.random.default_rng(0).normal(size=signal.weight.shape), jnp.float32)
    signal = signal.replace(advantage=jnp.sin(10 * x))
    open_range = decide(ej.clips.unclipped(), signal, rollout, {})
    slope = lambda surrogate, s: jax.grad(lambda x: surrogate(x, s).sum())(x)
    plain = slope(ej.surrogates.unclipped, signal)
    np.testing.assert_allclose(slope(ej.surrogates.ppo_clip, open_range), plain, rtol=1e-6)
    np.testing.assert_allclose(slope(ej.surrogates.cispo, open_range), plain, rtol=1e-5)


@pytest.mark.parametrize(
    "make,value",
    [
        (lambda: ej.clips.asymmetric(low=1.5), "1.5"),
        (lambda: ej.clips.asymmetric(high=-0.1), "-0.1"),
        (lambda: ej.clips.geometric(high=-2.0), "-2.0"),
        (lambda: ej.clips.cap(0.0), "0.0"),
    ],
)
def test_arguments_are_checked(make, value):
    with pytest.raises(ValueError, match=value):
        make()


def test_two_ranges_in_one_chain_are_refused():
    with pytest.raises(ValueError, match="both own 'clip'"):
        ej.chain(ej.clips.asymmetric(), ej.clips.cap())
