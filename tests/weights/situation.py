"""A batch with chosen statistics, and what a chain makes of it."""

import jax
import jax.numpy as jnp
import numpy as np

import entjax as ej
from tests import tiny


def batch(seed=0, advantage=None, **stats):
    """(rollout, signal, stats): 8 ragged rows of at most 11 tokens, normal advantages, a policy near the behaviour policy."""
    rng = np.random.default_rng(seed)
    rollout = tiny.rollout(seed)
    shape = rollout.mask.shape
    a = rng.normal(size=shape) if advantage is None else np.broadcast_to(advantage, shape)
    signal = ej.Signal.start(rollout)
    signal = signal.replace(advantage=ej.masked.keep(jnp.asarray(a, jnp.float32), rollout.mask))
    drawn = {
        "logp": np.minimum(np.asarray(rollout.old_logp) + 0.1 * rng.normal(size=shape), 0),
        "entropy": rng.uniform(0, 2, shape),
        "prob_sq": rng.uniform(0.1, 0.9, shape),
        "prob_sq_logp": -rng.uniform(0, 0.4, shape),
    }
    return rollout, signal, {k: jnp.asarray(v, jnp.float32) for k, v in {**drawn, **stats}.items()}


def apply(transform, situation, key=0):
    """The Signal after the transform."""
    rollout, signal, stats = situation
    context = ej.Context(rollout, stats, jnp.int32(0), jax.random.key(key))
    t = ej.chain(transform)
    return t.update(signal, t.init(None), context)[0]


def valid(situation, x):
    """x at the valid tokens, in NumPy."""
    return np.asarray(x)[np.asarray(situation[0].mask)]
