"""One transform on a small random batch: shared by the property tests of token-level methods."""

import jax.numpy as jnp
import numpy as np

import entjax as ej
from tests import tiny


def batch(seed=0, **extra):
    """(rollout, signal) with token-level advantages of both signs."""
    rollout = tiny.rollout(seed).replace(extra={name: jnp.asarray(x) for name, x in extra.items()})
    noise = np.random.default_rng(seed + 100).normal(size=rollout.mask.shape).astype(np.float32)
    signal = ej.Signal.start(rollout)
    return rollout, signal.replace(advantage=ej.masked.keep(jnp.asarray(noise), rollout.mask))


def apply(transform, rollout, signal, **stats):
    """The Signal after the transform; statistics of the current policy default to those of the behaviour policy."""
    known = {"entropy": rollout.entropy, "logp": rollout.old_logp}
    context = ej.Context(rollout, {**known, **{name: jnp.asarray(x) for name, x in stats.items()}})
    return transform.update(signal, transform.init(None), context)[0]


def on(rollout, x):
    """The values of x on valid tokens, float64."""
    return np.asarray(x, np.float64)[np.asarray(rollout.mask)]
