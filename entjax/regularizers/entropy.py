"""Entropy bonus: maximise the policy's own entropy beside the reward.

    loss += -c H_it,    H = -sum_v p log p of the current policy, differentiated through the logits

`coef` may be a number, a schedule or a controller fed with the measured entropy, e.g. `control.pi(target=0.5, ...)`.
Default c = 1e-3 (verl's and SIREN's baselines).
"""

from __future__ import annotations

import jax.numpy as jnp

from entjax import vocab
from entjax.control import Controller, Target
from entjax.transform import Transform, tunable


def entropy(coef: Target | Controller = 1e-3) -> Transform:
    """Entropy bonus with a constant, scheduled or controlled coefficient."""

    def f(signal, context, *, coef):
        return signal.add_term(
            "entropy", -jnp.asarray(coef, signal.weight.dtype) * jnp.ones_like(signal.weight)
        )

    controlled = isinstance(coef, Controller)
    return tunable(
        "entropy",
        f,
        {"coef": coef},
        reads={"entropy": vocab.entropy} if isinstance(coef, Controller) else {},
        terms={"entropy": vocab.entropy},
        writes={"coef"},
        owns={"entropy"} if controlled else (),
    )
