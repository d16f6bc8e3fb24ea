"""Whole steps of packed chains: the table's transforms, as many in one objective as get along, whatever the batch split.

Fast: every transform of the table appears in one pack, 1 against 4 microbatches. Slow: 50 random chains, 1/2/4/8 microbatches and
1/2/8 devices, state saved and restored in between.
"""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import entjax as ej
from entjax.checkpoint import flatten, unflatten
from tests import tiny
from tests.contract.table import arrays, inputs, rows

ROWS = [row for row in rows() if row.surrogate is ej.surrogates.ppo_clip]
SURROGATES = [row for row in rows() if row.surrogate is not ej.surrogates.ppo_clip]
SIZE = 8


def objective_of(members, surrogate=ej.surrogates.ppo_clip):
    """The members in the order that works; an error or a warning means that they do not get along."""
    named = [
        (row, ej.rename(f"t{i}_{(t := row.factory(**row.kwargs)).name}", t)) for i, row in enumerate(members)
    ]

    def order(item):
        """Rewards, baseline and clip range, other advantages, whatever looks at these, averages."""
        t = item[1]
        stages = (
            "reward" in t.owns,
            "reward" in t.writes,
            bool({"baseline", "clip"} & t.owns),
            "advantage" in t.writes,
            "scale" not in t.owns,
            True,
        )
        return stages.index(True)

    named.sort(key=order)
    if any("reward" in t.writes for _, t in named) and not any("baseline" in t.owns for _, t in named):
        named.insert(0, (members[0]._replace(where="per_rollout"), ej.advantages.raw()))
        named.sort(key=order)
    chains = {
        where: ej.chain(*(t for row, t in named if row.where == where))
        for where in ("per_rollout", "per_step")
    }
    return ej.Objective(**chains, per_token=surrogate)


def get_along(members):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            objective_of(members)
        except (ValueError, UserWarning):
            return False
    return True


def packs():
    """Every row once, greedily."""
    found = []
    for row in ROWS:
        home = next((pack for pack in found if len(pack) < SIZE and get_along([*pack, row])), None)
        if home is None:
            found.append([row])
        else:
            home.append(row)
    return found


PACKS = packs() + [[row] for row in SURROGATES]


def run(members, *, microbatches=1, devices=1, steps=1, restore=False):
    """(state, metrics) after some steps on one rollout."""
    objective, optimizer = objective_of(members, members[0].surrogate), optax.sgd(0.02)
    rollout = tiny.rollout()
    wanted = sorted({name for row in members for name in row.inputs})
    rollout = rollout.replace(extra=inputs(rollout, wanted))
    model = tiny.model()
    state = ej.init_train_state(model, objective, optimizer, jax.random.key(0))
    if state.reference is not None:
        state = state.replace(reference=nnx.split(tiny.model(1))[1])
    if devices > 1:
        mesh = Mesh(np.array(jax.devices()[:devices]), ("rows",))
        put = lambda x: jax.device_put(
            x, NamedSharding(mesh, P("rows") if jnp.ndim(x) and x.shape[0] == 8 else P())
        )
        rollout, state = jax.tree.map(put, rollout), jax.device_put(state, NamedSharding(mesh, P()))
    score = ej.make_score(model, objective, microbatches=microbatches)
    step = ej.make_train_step(model, objective, optimizer, microbatches=microbatches)
    kept = {name: x for name, x in rollout.extra.items() if name != "ref_logp"}
    for i in range(steps):
        if restore and i:
            state = unflatten(state, {name: jnp.asarray(np.asarray(x)) for name, x in flatten(state).items()})
        scored = score(state, rollout.replace(extra=kept)).replace(old_logp=rollout.old_logp)
        state, metrics = step(state, scored)
    assert step._cache_size() == 1, "the step compiled more than once"
    return state, metrics


def same(a, b, rtol=1e-4):
    (state, metrics), (other, more) = a, b
    for name, x in arrays((state.params, state.signal_state, metrics)).items():
        y = arrays((other.params, other.signal_state, more))[name]
        np.testing.assert_allclose(x, y, rtol=rtol, atol=5e-6, err_msg=name)
    assert int(state.skipped) == int(other.skipped) == 0


@pytest.mark.parametrize("members", PACKS, ids=lambda pack: "+".join(str(row).split("(")[0] for row in pack))
def test_microbatches_do_not_change_the_step(members):
    same(run(members), run(members, microbatches=4))


def random_chains(count=50):
    rng = np.random.default_rng(0)
    found = []
    while len(found) < count:
        members = [ROWS[i] for i in rng.choice(len(ROWS), rng.integers(2, 6), replace=False)]
        if get_along(members):
            found.append(members)
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    "members", random_chains(), ids=lambda pack: "+".join(str(row).split("(")[0] for row in pack)
)
def test_random_chains(members):
    alone = run(members, steps=2)
    for microbatches in (2, 4, 8):
        same(alone, run(members, microbatches=microbatches, steps=2), rtol=5e-4)
    for devices in (2, 8):
        same(alone, run(members, devices=devices, steps=2), rtol=5e-4)
    same(alone, run(members, steps=2, restore=True), rtol=0)
