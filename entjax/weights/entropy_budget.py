"""Entropy budget: the smallest change of token weights for which the *predicted* entropy change is what was asked for.

    minimise sum (w - 1)^2   subject to   sum w c = u sum |c|,   0 <= w <= maximum

c_it is the entropy change that token it contributes to the update, predicted before the step (exact first order, see
entropy_change). u in [-1, 1] is the budget: 0 asks for an update that leaves the entropy where it is, 1 keeps only tokens that
raise it. The solution is w = clip(1 + lambda c, 0, maximum), lambda by bisection. `target` (a number or a schedule) closes the
loop: u = PI control of target - H. The integral has real work to do: tokens share parameters, which the prediction does not
see, so the u that keeps the entropy of a network is not 0 and climbs in a run (quickstart: -0.1 to 0.15, 0.001 an update).

On the study's hard task a KL to the initial policy kept more pass@32 at equal pass@1, with the budget or without (docs/study.md);
recipes.entropy_budget(anchor=0.1) has one beside the budget.

This project's own method; no paper. The gains follow from b, what a unit of u moves the entropy in an update (quickstart: 0.01
nats). kp b = 0.1: a time constant of ten updates, over which the noise of a measured entropy averages out. ki <= b kp^2 / 4:
critical damping; a climb of u by 0.001 an update leaves an error of 0.001 / ki nats. Hence kp 10, ki 0.2. b follows the
learning rate: keep kp b. Default maximum 2.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from entjax import masked
from entjax.control import Controller, Target, pi
from entjax.entropy_change import Estimator, exact_first_order
from entjax.transform import Transform, tunable

BISECTIONS = 40
WIDEST = 1e3  # |lambda| in units of 1 / RMS(c): there every token with |c| > RMS / 500 sits at a bound


def entropy_budget(
    target: Target | None = None,
    *,
    kp: float = 10.0,
    ki: float = 0.2,
    budget: Target | Controller | None = None,
    maximum: float = 2.0,
    estimator: Estimator = exact_first_order,
) -> Transform:
    """Hold the entropy at `target` through the token weights; or give the `budget` u itself (number, schedule, controller)."""
    if (target is None) == (budget is None):
        raise ValueError("entropy_budget needs either target= (nats) or budget= (in [-1, 1]).")
    if not maximum > 1:
        raise ValueError(f"entropy_budget needs maximum > 1, got {maximum}.")
    controller = pi(target, kp, ki, low=-1.0, high=1.0) if budget is None else budget

    def f(signal, context, *, budget, **_):
        change = estimator.score(signal, context) * signal.weight * signal.mask.astype(signal.weight.dtype)
        w, asked, given = spend(change, signal.mask, jnp.asarray(budget, change.dtype), maximum)
        signal = signal.note(
            context, asked=asked, predicted=given, weight_low=masked.minimum(w, signal.mask, empty=1.0)
        )
        return signal.replace(weight=signal.weight * w)

    hyper = {"budget": controller, "maximum": maximum, "estimator": estimator}
    owns = () if budget is not None and not isinstance(budget, Controller) else ("entropy",)
    return tunable(
        "entropy_budget",
        f,
        hyper,
        reads=estimator.reads,
        writes={"weight"},
        sees={"advantage", "clip"},
        owns=owns,
    )


def spend(
    change: Float[Array, "B T"], mask: Bool[Array, "B T"], budget: Float[Array, ""], maximum: float
) -> tuple[Float[Array, "B T"], Float[Array, ""], Float[Array, ""]]:
    """(weights, asked, given): the predicted change that was asked for and what the weights give, in units of sum |c|."""
    spread = jnp.sqrt(masked.mean(change**2, mask))
    c = masked.keep(change / jnp.where(spread > 0, spread, 1), mask)
    whole = jnp.sum(jnp.abs(c))
    weights = lambda lam: jnp.clip(1 + lam * c, 0, maximum)
    total = lambda lam: jnp.sum(weights(lam) * c)  # rises with lambda
    asked = jnp.clip(budget, -1, 1) * whole

    def halve(_, ends):
        low, high = ends
        middle = (low + high) / 2
        below = total(middle) < asked
        return jnp.where(below, middle, low), jnp.where(below, high, middle)

    ends = (jnp.full_like(whole, -WIDEST), jnp.full_like(whole, WIDEST))
    lam = sum(jax.lax.fori_loop(0, BISECTIONS, halve, ends)) / 2
    w = jnp.where(whole > 0, weights(lam), jnp.ones_like(c))
    size = jnp.where(whole > 0, whole, 1)
    return w, asked / size, jnp.sum(w * c) / size
