"""EMPG: step-level modulation, future clarity, centring."""

import jax.numpy as jnp
import numpy as np
import pytest

from entjax.advantages import empg
from tests.advantages.situation import apply, batch, on


def reference(advantage, entropy, mask, turn, k, k_future, zeta):
    """The page's formula with loops over rows and steps, float64."""
    steps = []  # (row, positions) in order
    for b in range(len(mask)):
        for s in sorted({int(t) for t in turn[b][mask[b]] if t >= 0}):
            steps.append((b, np.flatnonzero(mask[b] & (turn[b] == s))))
    mean = np.array([entropy[b, where].mean() for b, where in steps])
    h = (mean - mean.min()) / (mean.max() - mean.min() + 1e-8)
    g = np.exp(-k * h) / (np.exp(-k * h).mean() + 1e-8)
    f = np.exp(-k_future * h)
    out, firsts = np.zeros_like(advantage), []
    for i, (b, where) in enumerate(steps):
        follows = i + 1 < len(steps) and steps[i + 1][0] == b
        out[b, where] = advantage[b, where] * g[i] + (zeta * f[i + 1] if follows else 0)
        firsts.append(out[b, where[0]])
    for b, where in steps:
        out[b, where] -= np.mean(firsts)
    return out, g


def turns(rollout, seed=0):
    """Non-decreasing step ids with gaps and tool tokens (-1)."""
    rng = np.random.default_rng(seed)
    ids = np.cumsum(rng.integers(0, 2, rollout.mask.shape) * rng.integers(1, 3, rollout.mask.shape), axis=1)
    ids = np.minimum(ids, rollout.mask.shape[1] - 1)
    return np.where(rng.random(ids.shape) < 0.15, -1, ids).astype(np.int32)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_against_loops(seed):
    rollout, signal = batch(seed)
    rollout = rollout.replace(extra={"turn": jnp.asarray(turns(rollout, seed))})
    numbers = (np.asarray(x, np.float64) for x in (signal.advantage, rollout.entropy))
    expected, g = reference(
        *numbers, np.asarray(rollout.mask), np.asarray(rollout.extra["turn"]), 1.5, 0.5, 0.2
    )
    ours = apply(empg(k=1.5, k_future=0.5, zeta=0.2), rollout, signal).advantage
    np.testing.assert_allclose(ours, expected, atol=2e-6)
    assert abs(g.mean() - 1) < 1e-7 and (g > 1).any()


def test_only_the_order_of_the_step_ids_counts():
    """Ids may exceed the width of the batch: a row can hold the last turns of a long conversation."""
    rollout, signal = batch()
    ids = turns(rollout)
    shifted = np.where(ids >= 0, 3 * ids + 1000, -1).astype(np.int32)
    out = [
        apply(empg(), rollout.replace(extra={"turn": jnp.asarray(x)}), signal).advantage
        for x in (ids, shifted)
    ]
    np.testing.assert_array_equal(*out)


def test_switched_off_it_only_centres():
    rollout, signal = batch()
    rollout = rollout.replace(extra={"turn": jnp.zeros(rollout.mask.shape, jnp.int32)})
    out = on(rollout, apply(empg(k=0.0, zeta=0.0), rollout, signal).advantage)
    first = [
        np.asarray(signal.advantage)[b][row][0] for b, row in enumerate(np.asarray(rollout.mask)) if row.any()
    ]
    np.testing.assert_allclose(out, on(rollout, signal.advantage) - np.mean(first), atol=1e-6)


def test_equal_entropies_change_nothing_but_the_mean():
    rollout, signal = batch()
    rollout = rollout.replace(
        entropy=jnp.ones_like(rollout.entropy), extra={"turn": jnp.asarray(turns(rollout))}
    )
    a = apply(empg(k=5.0, zeta=0.0), rollout, signal).advantage
    b = apply(empg(k=0.0, zeta=0.0), rollout, signal).advantage
    np.testing.assert_allclose(a, b, atol=1e-6)


def test_a_row_per_step_equals_steps_inside_a_row():
    rng = np.random.default_rng(3)
    rollout, signal = batch(3)
    mask = np.zeros(rollout.mask.shape, bool)
    mask[:2, :9] = True
    turn = np.broadcast_to(np.arange(mask.shape[1]) // 3, mask.shape).astype(np.int32)
    advantage = np.where(mask, rng.normal(size=(len(mask), 1)), 0).astype(np.float32)
    inside = rollout.replace(mask=jnp.asarray(mask), extra={"turn": jnp.asarray(turn)})
    one = apply(empg(zeta=0.3), inside, signal.replace(mask=inside.mask, advantage=jnp.asarray(advantage)))
    split = lambda x: np.pad(np.asarray(x)[:2, :9].reshape(6, 3), ((0, 2), (0, mask.shape[1] - 3)))
    extra = {
        "trajectory": jnp.asarray([0, 0, 0, 1, 1, 1, -1, -1], jnp.int32),
        "row_turn": jnp.asarray([0, 1, 2, 0, 1, 2, 0, 1], jnp.int32),
    }
    rows = rollout.replace(
        mask=jnp.asarray(split(mask)), entropy=jnp.asarray(split(rollout.entropy)), extra=extra
    )
    signal = signal.replace(mask=rows.mask, advantage=jnp.asarray(split(advantage)))
    other = apply(empg(zeta=0.3, steps="rows"), rows, signal).advantage
    np.testing.assert_allclose(split(one.advantage), other, atol=1e-6)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="'turns'"):
        empg(steps="turns")


def test_a_confident_wrong_step_is_punished_more():
    rollout, signal = batch()
    rollout = rollout.replace(extra={"turn": jnp.asarray(turns(rollout))})
    wrong = signal.replace(advantage=-rollout.mask.astype(jnp.float32))
    out = on(rollout, apply(empg(k=1.0, zeta=0.0), rollout, wrong).advantage)
    turn, entropy = (
        np.asarray(x)[np.asarray(rollout.mask)] for x in (rollout.extra["turn"], rollout.entropy)
    )
    row = np.broadcast_to(np.arange(8)[:, None], rollout.mask.shape)[np.asarray(rollout.mask)]
    steps = {key: (row == key[0]) & (turn == key[1]) for key in zip(row, turn) if key[1] >= 0}
    mean = np.array([entropy[where].mean() for where in steps.values()])
    got = np.array([out[where][0] for where in steps.values()])
    assert (np.diff(got[np.argsort(mean)]) >= -1e-6).all() and got[mean.argmin()] < got[mean.argmax()]
