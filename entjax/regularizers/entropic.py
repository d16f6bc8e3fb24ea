"""EntroPIC: a PI controller of the entropy acting through the signs of the advantage (arXiv 2511.15248; code yk7333/EntroPIC).

    e = H - H_target,    alpha = clip(K_i E + K_p e, -1, 1),    then E += e        (E holds past errors only)
    on tokens with pi_theta > threshold:  positives weigh 1 + alpha, negatives 1 - alpha

Entropy too high: alpha > 0, likely tokens are reinforced, entropy falls; too low: the other way. Without the threshold the push
on unlikely tokens has the opposite effect.

form="weights" (default, the paper's objective): the factors go into the weights of the clipped surrogate, and E stays where the
output can use it (anti-windup). form="released": loss += alpha mean over these tokens of -r |A|, unclipped, with
its own denominator, E not bounded; `fraction` = microbatch / minibatch of the released loop. Defaults: K_p 1, K_i .01, target .1
(paper); threshold .95 (its size in the code is from memory). A negative target switches it off. H is the mean over tokens; the
released loop averages it as it does its loss.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from entjax import masked, vocab
from entjax.control import Target, accumulate
from entjax.transform import Transform, measured_entropy, stateful


class EntropicState(NamedTuple):
    integral: Float[Array, ""]


def entropic(
    target: Target = 0.1,
    *,
    kp: float = 1.0,
    ki: float = 0.01,
    threshold: float = 0.95,
    form: str = "weights",
    fraction: float = 1.0,
    measure: str = "shannon",
) -> Transform:
    """Weighs positives against negatives so that the entropy meets its target."""
    if form not in ("weights", "released"):
        raise ValueError(f"entropic's form must be 'weights' or 'released', got {form!r}.")
    if kp < 0 or ki < 0 or not 0 <= threshold < 1:
        raise ValueError(
            f"entropic needs kp, ki >= 0 and 0 <= threshold < 1, got kp={kp}, ki={ki}, threshold={threshold}."
        )
    cut = math.log(threshold) if threshold > 0 else -math.inf
    bound = 1.0 if form == "weights" else math.inf

    def f(signal, state, context, *, target):
        error = measured_entropy(context, measure).astype(state.integral.dtype) - target
        error = jnp.where(target >= 0, error, 0)
        alpha = jnp.where(target >= 0, jnp.clip(ki * state.integral + kp * error, -1.0, 1.0), 0)
        integral = accumulate(state.integral, fraction * error, kp * error, ki, -bound, bound)
        likely = signal.mask & (context.stats["logp"] > cut)
        push = released if form == "released" else weights
        signal = push(signal, alpha.astype(signal.weight.dtype), likely)
        share = masked.mean(likely, signal.mask)
        return signal.note(context, alpha=alpha, integral=integral, likely=share), EntropicState(integral)

    def weights(signal, alpha, likely):
        factor = 1 + alpha * jnp.sign(signal.advantage)
        return signal.replace(weight=signal.weight * jnp.where(likely, factor, 1).astype(signal.weight.dtype))

    def released(signal, alpha, likely):
        scale = likely.astype(alpha.dtype)
        scale = scale / jnp.maximum(scale.sum(), 1)
        strength = masked.keep(-alpha * jnp.abs(signal.advantage), likely)
        return signal.add_term("entropic_ratio", strength, own_scale=scale)

    reads = {"logp": vocab.logp} | ({"entropy": vocab.entropy} if measure == "shannon" else {})
    return stateful(
        "entropic",
        lambda: EntropicState(jnp.zeros((), jnp.float32)),
        f,
        {"target": target},
        reads=reads,
        terms={"entropic_ratio": vocab.ratio} if form == "released" else {},
        writes={"coef"} if form == "released" else {"weight"},
        sees={"advantage"},
        owns={"entropy"},
    )
