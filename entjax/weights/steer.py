"""STEER: damp the tokens whose update would change the entropy most ("Rethinking Entropy Interventions in RLVR").

    Omega_t = predicted entropy change of one step on token t,  u_t = |Omega_t|, normalised over the batch to [0, 1]
    exp         w_t = w_min ^ u_t                         u = |Omega| / max|Omega|: the paper's exp(-alpha |Omega| / max|Omega|)
    linear      w_t = w_max - u_t (w_max - w_min)         u min-max normalised
    asymmetric  w_t = w_min ^ u_t where Omega_t < 0, w_max ^ u_t where Omega_t > 0: what raises entropy is strengthened

The weight multiplies the token's loss after clip and dual clip; weights are not rescaled to mean 1.

Defaults: w_min 0.8 and w_max 1.2 from the scripts (the paper's main run: 0.7). The estimator defaults to the paper's theorem.
The released code differs: it divides by p_old, leaves out the clip indicator and puts a floor of 0.02 under max|Omega|
(estimator=entropy_change.steer_code, floor=0.02). `entropy_change.exact_first_order` predicts best and costs the same.
One outlier collapses `peak` and `minmax`, the published normalisers; `winsorised` and `rank` withstand it. `asymmetric` is a
reconstruction: the text tells its purpose, not its form.
"""

from __future__ import annotations

import jax.numpy as jnp

from entjax import entropy_change, masked
from entjax.conflicts import steered
from entjax.control import Controller, Target
from entjax.entropy_change import Estimator, Normaliser
from entjax.transform import Transform, is_dynamic, tunable

MODES = ("exp", "linear", "asymmetric")


def steer(
    minimum: Target | Controller = 0.8,
    maximum: Target | Controller = 1.2,
    *,
    mode: str = "exp",
    estimator: Estimator = entropy_change.steer_theorem,
    normaliser: Normaliser | None = None,
    floor: float = 0.0,
) -> Transform:
    """Token weights from the predicted entropy change; `maximum` has no part in mode "exp"."""
    if mode not in MODES:
        raise ValueError(f"steer's mode must be one of {MODES}, got {mode!r}.")
    if not is_dynamic(minimum) and not 0 < minimum <= 1:
        raise ValueError(f"steer needs 0 < minimum <= 1, got {minimum}.")
    if not is_dynamic(maximum) and not maximum >= 1:
        raise ValueError(f"steer needs maximum >= 1, got {maximum}.")
    if floor and (normaliser is not None or mode == "linear"):
        raise ValueError(
            f"floor={floor} belongs to the normaliser `peak` of modes 'exp' and 'asymmetric': leave it out."
        )
    normalise = normaliser or (entropy_change.minmax if mode == "linear" else entropy_change.peak(floor))

    def f(signal, context, *, minimum, maximum):
        score = estimator.score(signal, context)
        score = jnp.where(jnp.isfinite(score), score, 0)
        u = normalise(jnp.abs(score), signal.mask)
        low, high = jnp.asarray(minimum, u.dtype), jnp.asarray(maximum, u.dtype)
        if mode == "linear":
            weight = high - u * (high - low)
        else:
            rises = (score > 0) & (mode == "asymmetric")
            weight = jnp.where(rises, high, low) ** u
        weight = jnp.where(signal.mask, weight, 1).astype(signal.weight.dtype)
        signal = signal.replace(weight=signal.weight * weight)
        return signal.note(
            context,
            mean=masked.mean(weight, signal.mask),
            std=masked.std(weight, signal.mask),
            size=masked.mean(jnp.abs(score), signal.mask),
        )

    return tunable(
        "steer",
        f,
        {"minimum": minimum, "maximum": maximum},
        reads=estimator.reads,
        writes={"weight"},
        sees={"advantage", "clip"},
        owns=steered(minimum, maximum),
    )
