"""Entropy bonus: maximise the policy's own entropy beside the reward.

    loss += -c H_it,    H = -sum_v p log p of the current policy, differentiated through the logits

averaged as the loss averages its surrogate (verl), over all tokens of the batch, or over those whose weight is not 0 (TRL beside
a mask of forking tokens). `coef` may be a number, a schedule or a controller fed with the measured entropy, e.g.
`control.pi(target=0.5, ...)`.
Default c = 1e-3 (verl's and SIREN's baselines).
"""

from __future__ import annotations

import jax.numpy as jnp

from entjax import vocab
from entjax.control import Controller, Target
from entjax.transform import Transform, tunable


def entropy(coef: Target | Controller = 1e-3, *, average: str = "loss") -> Transform:
    """Entropy bonus with a constant, scheduled or controlled coefficient; `average`: "loss", "tokens" or "learning"."""
    if average not in ("loss", "tokens", "learning"):
        raise ValueError(f"entropy's average must be 'loss', 'tokens' or 'learning', got {average!r}.")

    def f(signal, context, *, coef):
        coef = -jnp.asarray(coef, signal.weight.dtype) * jnp.ones_like(signal.weight)
        if average == "loss":
            return signal.add_term("entropy", coef)
        counts = (signal.mask & ((signal.weight != 0) | (average == "tokens"))).astype(coef.dtype)
        return signal.add_term("entropy", coef, own_scale=counts / jnp.maximum(counts.sum(), 1))

    controlled = isinstance(coef, Controller)
    return tunable(
        "entropy",
        f,
        {"coef": coef},
        reads={"entropy": vocab.entropy} if controlled else {},
        terms={"entropy": vocab.entropy},
        writes={"coef"},
        owns={"entropy"} if controlled else (),
    )
