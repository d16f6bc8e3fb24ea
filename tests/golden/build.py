"""Rollouts from golden arrays, and one update of one transform."""

import jax
import jax.numpy as jnp
import numpy as np

import entjax as ej
from entjax.transform import Transform


def rollout_of(x, reward, group=None, **extra) -> ej.Rollout:
    """A rollout from golden arrays; what a case does not have is harmless. Without a mask a row is one token."""
    reward = jnp.asarray(reward, jnp.float64)
    mask = jnp.asarray(x.get("mask", np.ones((len(reward), 1)))) > 0
    logp = jnp.asarray(x.get("old_logp", np.zeros(mask.shape)), jnp.float64)
    known = {name: jnp.asarray(x[name]) for name in ("ref_logp",) if name in x}
    return ej.Rollout(
        tokens=jnp.zeros(mask.shape, jnp.int32),
        mask=mask,
        logp=logp,
        entropy=jnp.asarray(x.get("entropy", np.zeros(mask.shape)), jnp.float64),
        old_logp=logp,
        reward=reward,
        group=jnp.asarray(x["group_ids"] if group is None else group, jnp.int32),
        extra=known | {name: jnp.asarray(value) for name, value in extra.items()},
    )


def run(t: Transform, rollout: ej.Rollout, signal=None, state=None, step: int = 0):
    """(signal, state) after one update of t."""
    signal = ej.Signal.start(rollout) if signal is None else signal
    context = ej.Context(rollout, {"entropy": rollout.entropy}, jnp.int32(step), jax.random.key(0), t.name)
    return t.update(signal, t.init(None) if state is None else state, context)


def advantage(t: Transform, rollout: ej.Rollout, **kwargs):
    return run(t, rollout, **kwargs)[0].advantage
