"""Whatever the batch: every transform of the contract table gives finite signals, states, losses and gradients, nothing to
masked tokens, and the same to a row wherever it stands and whatever its group is called.
"""

import functools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import strategies as st

import entjax as ej
from entjax.passes import forward, of_behaviour, policy_features
from tests.contract.table import arrays, rows
from tests.properties.worlds import Table, World, corners, flavours, world

ROWS = rows()
SHAPE = (8, 7, 2)  # rows, tokens, vocabulary
OTHERS = [(1, 2, 2), (6, 9, 11), (5, 3, 300)]
each = pytest.mark.parametrize("index", range(len(ROWS)), ids=[f"{i}-{row}" for i, row in enumerate(ROWS)])
few = hypothesis.settings(
    max_examples=4, deadline=None, database=None, derandomize=True, phases=[hypothesis.Phase.generate]
)
many = hypothesis.settings(few, max_examples=60)


def objective_of(row):
    t = row.factory(**row.kwargs)
    if "reward" in t.writes and "baseline" not in t.owns:
        t = ej.chain(t, ej.advantages.raw())
    return ej.Objective(**{row.where: t}, per_token=row.surrogate)


@functools.cache
def program(index):
    """(signal, states, loss, gradient) of a world under the transform of a row of the contract table."""
    objective = objective_of(ROWS[index])

    @jax.jit
    def run(world: World):
        graphdef = nnx.split(Table(world.policy["logits"][...]))[0]
        rollout, policy, reference = world
        look = lambda rollout, wanted: policy_features(graphdef, policy, reference, rollout, wanted, 10_000)
        remembered = look(rollout, {name: of_behaviour(f) for name, f in objective.remembers.items()})
        rollout = rollout.replace(extra={**rollout.extra, **remembered})
        start, state = ej.Signal.start(rollout), objective.init()
        stats = {"entropy": rollout.entropy, "logp": rollout.old_logp, **rollout.extra}
        context = ej.Context(rollout, stats, jnp.int32(1), jax.random.key(0))
        signal, first = objective.per_rollout.update(start, state["per_rollout"], context)
        context = context.replace(stats=look(rollout, dict(objective.per_step.reads)))
        signal, second = objective.per_step.update(signal, state["per_step"], context)

        def loss(policy):
            other = forward(graphdef, reference, rollout) if objective.needs_reference else None
            hidden, head = forward(graphdef, policy, rollout)
            return ej.policy_loss(objective, hidden, head, rollout, signal, reference=other).loss

        value, gradient = jax.value_and_grad(loss)(policy)
        return {"signal": signal, "state": (first, second), "loss": value}, gradient["logits"][...]

    return run


def outcome_of(index, made: World):
    """What the program gives, in NumPy."""
    return jax.tree.map(np.asarray, program(index)(made))


def check_finite(index, made: World):
    outcome, gradient = outcome_of(index, made)
    for name, x in arrays({**outcome, "gradient": gradient}).items():
        assert not np.issubdtype(x.dtype, np.floating) or np.isfinite(x).all(), f"{name} is not finite"
    sampled = made.rollout.mask[:, 1:]
    assert not gradient[:, :-1][~sampled].any(), "a masked token has a gradient"
    assert not gradient[:, -1].any(), "the last position predicts nothing"


def check_garbage(index, made: World):
    """NaN at masked positions, other tokens and other logits there, change nothing."""
    mask, rng = made.rollout.mask, np.random.default_rng(1)

    def spoil(x):
        if np.shape(x)[:2] != mask.shape or x is mask:
            return x
        wild = np.nan if np.issubdtype(x.dtype, np.floating) else rng.integers(0, 2, x.shape)
        inside = np.expand_dims(mask, tuple(range(2, x.ndim)))
        return np.where(inside, x, np.asarray(wild).astype(x.dtype))

    predicts = np.pad(mask[:, 1:], ((0, 0), (0, 1)))[..., None]
    loud = lambda x: jnp.where(predicts, x, jnp.asarray(50 * rng.normal(size=x.shape), x.dtype))
    spoiled = World(jax.tree.map(spoil, made.rollout), *jax.tree.map(loud, made[1:]))
    compare(on(mask, outcome_of(index, made)), on(mask, outcome_of(index, spoiled)))


def check_order(index, made: World, order, ids):
    """Rows in another order and groups under other ids: every row gets what it got before."""
    renamed = made._replace(rollout=made.rollout.replace(group=np.asarray(ids, np.int32)[made.rollout.group]))
    shuffle = lambda tree: jax.tree.map(
        lambda x: x[order] if jnp.ndim(x) and len(x) == len(order) else x, tree
    )
    outcome, gradient = outcome_of(index, made)
    expected = {**outcome, "signal": shuffle(outcome["signal"])}, shuffle(gradient)
    mask = made.rollout.mask[order]
    compare(on(mask, expected), on(mask, outcome_of(index, shuffle(renamed))))


def on(mask, tree):
    """[B, T] arrays with 0 where masked: what a signal says there nobody reads."""
    return jax.tree.map(lambda x: np.where(mask, x, x.dtype.type(0)) if x.shape == mask.shape else x, tree)


def compare(one, two):
    one, two = arrays(one), arrays(two)
    assert one.keys() == two.keys()
    for name in one:
        a, b = one[name], two[name]
        scale = np.abs(a).max(initial=0.0) if np.issubdtype(a.dtype, np.floating) else 0.0
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6 + 1e-5 * scale, err_msg=name)


def check(index, shape, settings):
    """All properties of one transform on batches of one shape."""
    (size, *rest), row = shape, ROWS[index]
    make = lambda flavour: world(flavour, *rest, row.inputs)
    for name, flavour in corners(size, rest[0]).items():
        try:
            check_finite(index, make(flavour))
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from None

    @settings
    @hypothesis.given(flavours(size, rest[0]))
    def absurd(flavour):
        check_finite(index, make(flavour))

    @settings
    @hypothesis.given(
        flavours(size, rest[0], absurd=False), st.permutations(range(size)), st.permutations(range(4))
    )
    def ordinary(flavour, order, ids):
        made = make(flavour)
        check_garbage(index, made)
        if not row.random:  # draws per position, or breaks ties by it
            check_order(index, made, np.asarray(order), ids)

    absurd()
    ordinary()


@each
def test_every_transform(index):
    check(index, SHAPE, few)


@pytest.mark.slow
@each
@pytest.mark.parametrize("shape", [SHAPE, *OTHERS], ids=str)
def test_every_transform_thoroughly(index, shape):
    check(index, shape, many)
