"""Positive and negative advantages scaled apart: W-REINFORCE, RAFT, negative-sample reinforcement.

    A <- positive A where A > 0,   negative A where A < 0

Positives lower entropy, negatives raise it. W-REINFORCE is raw() with positive 0.1 (default; as in Entrocraft's repository, on
rewards of +-1), RAFT drops the negatives (negative 0), NSR the positives (positive 0).
"""

from __future__ import annotations

import jax.numpy as jnp

from entjax.control import Controller, Target
from entjax.transform import Transform, is_dynamic, tunable


def signed_scale(positive: Target | Controller = 0.1, negative: Target | Controller = 1.0) -> Transform:
    """Scale advantages by their sign."""
    for name, value in (("positive", positive), ("negative", negative)):
        if not is_dynamic(value) and value < 0:
            raise ValueError(f"{name} must be >= 0, got {value}.")

    def f(signal, context, *, positive, negative):
        a = signal.advantage
        scale = jnp.where(a > 0, jnp.asarray(positive, a.dtype), jnp.asarray(negative, a.dtype))
        return signal.replace(advantage=scale * a)

    controlled = any(isinstance(value, Controller) for value in (positive, negative))
    owns = {"entropy"} if controlled else ()
    hyper = {"positive": positive, "negative": negative}
    return tunable("signed_scale", f, hyper, writes={"advantage"}, owns=owns)
