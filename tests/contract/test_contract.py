"""What every transform must keep: the contract of DESIGN.md section 5, once for the whole table."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import entjax as ej
from tests import tiny
from tests.contract.table import arrays, inputs, rows

ROWS = rows()
every = pytest.mark.parametrize("row", ROWS, ids=[f"{i}-{row}" for i, row in enumerate(ROWS)])
FIELDS = {f.name for f in dataclasses.fields(ej.Signal)}


def objective_of(row):
    t = row.factory(**row.kwargs)
    if "reward" in t.writes and "baseline" not in t.owns:
        t = ej.chain(t, ej.advantages.raw())
    return ej.Objective(**{row.where: t}, per_token=row.surrogate)


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


def finite(tree):
    for name, x in arrays(tree).items():
        if np.issubdtype(x.dtype, np.floating):
            assert np.isfinite(x).all(), f"{name} is not finite"


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


@every
def test_row_order_does_not_matter(row):
    if row.random:
        pytest.skip("draws per position")
    t, signal, state, context = situation(row, tiny.rollout())
    order = np.random.default_rng(2).permutation(signal.reward.shape[0])
    shuffle = lambda tree: jax.tree.map(
        lambda x: x[order] if jnp.ndim(x) and x.shape[0] == len(order) else x, tree
    )
    out, new = t.update(signal, state, context)
    context = context.replace(rollout=shuffle(context.rollout), stats=shuffle(dict(context.stats)))
    other, other_new = t.update(shuffle(signal), state, context)
    for name, x in arrays((shuffle(out), new)).items():
        np.testing.assert_allclose(x, arrays((other, other_new))[name], rtol=2e-5, atol=2e-6, err_msg=name)


def degenerate():
    base = tiny.rollout()
    nothing = base.replace(mask=jnp.zeros_like(base.mask))
    one = jnp.arange(base.tokens.shape[1])[None] == 2
    return {
        "equal rewards": base.replace(reward=jnp.ones_like(base.reward)),
        "zero rewards": base.replace(reward=jnp.zeros_like(base.reward)),
        "empty mask": nothing,
        "one token a row": base.replace(mask=jnp.broadcast_to(one, base.mask.shape)),
        "groups of one": base.replace(group=jnp.arange(8, dtype=jnp.int32)),
        "filler rows": base.replace(group=jnp.full((8,), -1, jnp.int32), mask=nothing.mask),
        "extreme ratios": base.replace(old_logp=base.old_logp - 50.0, logp=base.logp - 1e9),
        "certain": base.replace(old_logp=jnp.zeros_like(base.logp), entropy=jnp.zeros_like(base.entropy)),
    }


DEGENERATE = degenerate()


@every
def test_degenerate_batches_stay_finite(row):
    """Signal, loss and gradient are finite, whatever the batch."""
    objective = objective_of(row)
    optimizer = optax.sgd(0.1)
    start = ej.init_train_state(tiny.model(), objective, optimizer, jax.random.key(0))
    graphdef, _ = nnx.split(model())
    wanted = dict(objective.remembers)
    chains = {"per_rollout": objective.per_rollout, "per_step": objective.per_step}

    @jax.jit
    def everything(rollout):
        found = ej.step.policy_features(graphdef, start.params, start.reference, rollout, wanted, 10_000)
        rollout = rollout.replace(extra={**rollout.extra, **found})
        stats = {"entropy": rollout.entropy, "logp": rollout.old_logp, **rollout.extra}
        signal, a = chains["per_rollout"].update(
            ej.Signal.start(rollout),
            start.signal_state["per_rollout"],
            ej.Context(rollout, stats, 0, jax.random.key(0)),
        )
        stats = ej.step.policy_features(
            graphdef, start.params, start.reference, rollout, dict(objective.per_step.reads), 10_000
        )
        signal, b = chains["per_step"].update(
            signal, start.signal_state["per_step"], ej.Context(rollout, stats, 0, jax.random.key(0))
        )

        def loss(params):
            other = (
                ej.step.forward(graphdef, start.reference, rollout) if start.reference is not None else None
            )
            return ej.policy_loss(
                objective, *ej.step.forward(graphdef, params, rollout), rollout, signal, reference=other
            ).loss

        return signal, a, b, jax.value_and_grad(loss)(start.params)

    for name, rollout in DEGENERATE.items():
        rollout = rollout.replace(extra=inputs(rollout, row.inputs))
        try:
            finite(everything(rollout))
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from None
