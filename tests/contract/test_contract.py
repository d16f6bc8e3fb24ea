"""What every transform must keep, once for the whole table; tests/properties/ adds what must hold for any batch."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import entjax as ej
from tests import tiny
from tests.contract.table import arrays, inputs, rows

ROWS = rows()
every = pytest.mark.parametrize("row", ROWS, ids=[f"{i}-{row}" for i, row in enumerate(ROWS)])
FIELDS = {f.name for f in dataclasses.fields(ej.Signal)}


@functools.cache
def model():
    return tiny.model()


def situation(row, rollout):
    """(transform, signal, state, context) as the step would hand them over."""
    t = row.factory(**row.kwargs)
    rollout = rollout.replace(extra=inputs(rollout, row.inputs))
    graphdef, params = nnx.split(model())
    wanted = {**t.reads, **t.remembers}
    other = nnx.split(tiny.model(1))[1]
    found = ej.step.policy_features(graphdef, params, other, rollout, wanted, 10_000)
    remembered = {name: found[name] for name in t.remembers}
    if row.where == "per_rollout":
        remembered |= {name: found[name] for name in t.reads}
    rollout = rollout.replace(extra={**rollout.extra, **remembered})
    stats = {name: found[name] for name in t.reads}
    signal = ej.Signal.start(rollout)
    if "baseline" not in t.owns and "reward" not in t.writes:
        noise = np.random.default_rng(3).normal(size=rollout.tokens.shape[0])[:, None]
        signal = signal.replace(advantage=ej.masked.keep(jnp.asarray(noise, jnp.float32), rollout.mask))
    return t, signal, t.init(None), ej.Context(rollout, stats, jnp.int32(3), jax.random.key(5))


@every
def test_jit_equals_eager_and_state_is_stable(row):
    t, signal, state, context = situation(row, tiny.rollout())
    out, new = t.update(signal, state, context)
    jitted = jax.jit(t.update)
    out_jit, new_jit = jitted(signal, state, context)
    for name, x in arrays((out, new)).items():
        np.testing.assert_allclose(x, arrays((out_jit, new_jit))[name], rtol=2e-5, atol=2e-6, err_msg=name)
    if jax.tree.leaves(new):
        assert jax.tree.structure(state) == jax.tree.structure(new), (
            "init and update give states of different structure"
        )
        shapes = lambda s: [(x.shape, x.dtype) for x in jax.tree.leaves(s)]
        assert shapes(state) == shapes(new), "init and update give states of different shapes or dtypes"
    else:
        assert not jax.tree.leaves(state)
    jitted(signal, new_jit if jax.tree.leaves(new_jit) else state, context.replace(step=jnp.int32(4)))
    assert jitted._cache_size() == 1, "a second call compiles again"


@every
def test_frame(row):
    """Fields not in `writes` come out bit for bit as they went in."""
    t, signal, state, context = situation(row, tiny.rollout())
    assert set(t.writes) == set(row.writes) - {"metrics"}, f"{t.name} declares that it writes {set(t.writes)}"
    out, _ = t.update(signal, state, context)
    for field in FIELDS - set(row.writes) - {"metrics", "own_scale"}:
        a, b = arrays(getattr(signal, field)), arrays(getattr(out, field))
        assert a.keys() == b.keys(), f"{t.name} changed {field} without declaring it"
        for key in a:
            np.testing.assert_array_equal(
                a[key], b[key], err_msg=f"{t.name} changed {field} without declaring it"
            )
    if "own_scale" not in row.writes and "coef" not in row.writes:
        assert not out.own_scale
    assert set(out.coef) - set(signal.coef) <= set(t.terms), "a coefficient without a feature"


@every
def test_looks_only_at_what_it_declares(row):
    """A decision of another transform that a rule looks at is in `sees`, so that `conflicts` can tell the wrong order."""
    t, signal, state, context = situation(row, tiny.rollout())
    changes = {
        "clip": signal.replace(clip_low=0.9 * signal.clip_low, clip_high=0.9 * signal.clip_high),
        "advantage": signal.replace(advantage=0.5 - signal.advantage),
    }
    for what, changed in changes.items():
        if what in t.sees or any(field.startswith(what) for field in t.writes):
            continue
        before, after = t.update(signal, state, context), t.update(changed, state, context)
        for name, x in arrays(before).items():
            if what not in name:
                np.testing.assert_array_equal(
                    x, arrays(after)[name], err_msg=f"{t.name} looks at {what}: {name}"
                )


@every
def test_padding_does_not_matter(row):
    """Garbage on masked positions and extra columns change nothing on the others."""
    if row.random:
        pytest.skip("draws per position")
    rollout = tiny.rollout()
    t, signal, state, context = situation(row, rollout)
    out, new = t.update(signal, state, context)
    wild = np.random.default_rng(1)

    def widen(x, mask):
        x = np.asarray(x)
        if x.shape[:2] != mask.shape:
            return jnp.asarray(x)
        noise = (
            50 * wild.normal(size=x.shape)
            if np.issubdtype(x.dtype, np.floating)
            else wild.integers(0, 2, x.shape)
        )
        x = np.where(np.asarray(mask).reshape(mask.shape + (1,) * (x.ndim - 2)), x, noise.astype(x.dtype))
        tail = np.repeat(x[:, -1:], 3, axis=1)
        return jnp.asarray(np.concatenate([x, tail], 1))

    mask = np.asarray(rollout.mask)
    wide = jax.tree.map(lambda x: widen(x, mask), context.rollout)
    wide_mask = jnp.asarray(np.pad(mask, ((0, 0), (0, 3))))
    wide = wide.replace(mask=wide_mask)
    stats = {k: widen(v, mask) for k, v in context.stats.items()}
    start = ej.Signal.start(wide)
    start = start.replace(advantage=jnp.pad(signal.advantage, ((0, 0), (0, 3))))
    out_wide, new_wide = t.update(start, state, context.replace(rollout=wide, stats=stats))
    on = lambda x: (
        np.where(mask, np.asarray(x)[:, : mask.shape[1]], 0)
        if np.shape(x)[:1] == mask.shape[:1] and np.ndim(x) == 2
        else np.asarray(x)
    )
    for name, x in arrays((jax.tree.map(on, out), new)).items():
        np.testing.assert_allclose(
            x, arrays((jax.tree.map(on, out_wide), new_wide))[name], rtol=2e-5, atol=2e-6, err_msg=name
        )
