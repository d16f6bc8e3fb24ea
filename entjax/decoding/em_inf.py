"""EM-INF: minimise the entropy of the next token's distribution before sampling it (arXiv 2505.15134).

    theta <- logits;  up to n times, while H(softmax theta) >= delta:  theta <- Adam(theta, d/dtheta [H + lambda KL(p0 || p)])

p0 is the distribution before; H = -sum p log(p + 1e-12). Adam moves a logit by about the learning rate whatever its probability,
so likely tokens rise by n lr and the others fall: unlikely ones may change places. Rows stop one by one. Defaults of the
evaluation script: lr 0.1, n 3, lambda 0.05, delta 0.3, followed by `temperature(0.1)`; code fallbacks n 5, lambda 0.001.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from entjax.transform import Transform

BETA1, BETA2, EPS = 0.9, 0.999, 1e-8  # Adam's usual
TINY = 1e-12


class EMInf(NamedTuple):
    lr: Float[Array, ""]
    steps: Int[Array, ""]
    kl: Float[Array, ""]
    threshold: Float[Array, ""]


class _Search(NamedTuple):
    """The loop's state: parameters and moments of every row, and how many steps each has taken."""

    theta: Float[Array, "B V"]
    mean: Float[Array, "B V"]
    square: Float[Array, "B V"]
    taken: Int[Array, " B"]


def minimise_entropy(
    logits: Float[Array, "B V"], settings: EMInf
) -> tuple[Float[Array, "B V"], Int[Array, " B"]]:
    """(theta, Adam steps taken) of every row."""
    start = jax.nn.softmax(logits, axis=-1)

    def goes_on(carry):
        count, search = carry
        return (count < settings.steps) & jnp.any(_unsure(search.theta, settings))

    def advance(carry):
        count, old = carry
        p = jax.nn.softmax(old.theta, axis=-1)
        slope = _gradient(p, start, settings.kl)
        mean = BETA1 * old.mean + (1 - BETA1) * slope
        square = BETA2 * old.square + (1 - BETA2) * slope**2
        t = (count + 1).astype(p.dtype)
        size = jnp.sqrt(square / (1 - jnp.power(BETA2, t))) + EPS
        theta = old.theta - settings.lr * mean / (1 - jnp.power(BETA1, t)) / size
        moves = _unsure(old.theta, settings)
        new = _Search(theta, mean, square, old.taken + 1)
        choose = lambda a, b: jnp.where(moves.reshape(-1, *[1] * (a.ndim - 1)), a, b)
        return count + 1, jax.tree.map(choose, new, old)

    zeros = jnp.zeros_like(logits)
    first = _Search(logits, zeros, zeros, jnp.zeros(logits.shape[0], jnp.int32))
    _, last = jax.lax.while_loop(goes_on, advance, (jnp.zeros((), jnp.int32), first))
    return last.theta, last.taken


def _gradient(p, start, kl):
    """d/dtheta of H + kl KL(start || p), by the chain rule through the softmax."""
    by_p = -(jnp.log(p + TINY) + p / (p + TINY))
    return p * (by_p - jnp.sum(p * by_p, axis=-1, keepdims=True)) + kl * (p - start)


def _unsure(theta, settings):
    p = jax.nn.softmax(theta, axis=-1)
    return -jnp.sum(p * jnp.log(p + TINY), axis=-1) >= settings.threshold


def em_inf(lr: float = 0.1, steps: int = 3, kl: float = 0.05, threshold: float = 0.3) -> Transform:
    """Sharpen every distribution by at most `steps` steps of Adam; rows below `threshold` nats stay as they are."""
    if not lr > 0:
        raise ValueError(f"em_inf() needs lr > 0, got {lr}.")
    if steps < 0:
        raise ValueError(f"em_inf() needs steps >= 0, got {steps}.")
    if not (kl >= 0 and threshold >= 0):
        raise ValueError(f"em_inf() needs kl >= 0 and threshold >= 0, got kl={kl}, threshold={threshold}.")

    def init(logits):
        number = lambda x: jnp.asarray(x, logits.dtype)
        return EMInf(number(lr), jnp.asarray(steps, jnp.int32), number(kl), number(threshold))

    return Transform(
        "em_inf", init, _update, hyper={"lr": lr, "steps": steps, "kl": kl, "threshold": threshold}
    )


def _update(logits, state, context):
    return minimise_entropy(logits, state)[0], state
