"""EMPG, "Harnessing Uncertainty: Entropy-Modulated Policy Gradients for Long-Horizon LLM Agents" (arXiv 2509.09265).

    h_s = (H_s - min H) / (max H - min H + 1e-8)             H_s: mean behaviour entropy of step s, min and max over all steps
    g_s = exp(-k h_s) / (mean over steps of exp(-k h) + 1e-8),    f_s = exp(-k' h_s)
    A'_it = A_it g_s + zeta f_{s+1}                          the bonus only where the trajectory has a next step
    A''   = A' - mean over steps of A' at the step's first token;  0 outside steps

A step is one assistant segment: `rollout.extra["turn"]` [B, T] numbers them inside a row, -1 outside (`steps="tokens"`), or a
row is one step: extra["trajectory"] [B] and extra["row_turn"] [B] (`steps="rows"`, as in ARLArena). Defaults k = k' = 1,
zeta 0.1 (official pseudo-code; ARLArena 0.05). The pseudo-code also subtracts the mean from tokens outside steps.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from entjax import masked
from entjax.control import Controller, Target
from entjax.transform import Transform, is_dynamic, tunable

EPS = 1e-8


def empg(
    *,
    k: Target | Controller = 1.0,
    k_future: Target | Controller = 1.0,
    zeta: Target | Controller = 0.1,
    steps: str = "tokens",
) -> Transform:
    """Confident steps get a larger advantage, and a bonus when they lead to a clear next step."""
    if steps not in ("tokens", "rows"):
        raise ValueError(f"steps must be 'tokens' or 'rows', got {steps!r}.")
    hyper = {"k": k, "k_future": k_future, "zeta": zeta}
    for name, value in hyper.items():
        if not is_dynamic(value) and not value >= 0:
            raise ValueError(f"empg needs {name} >= 0, got {value}.")

    def f(signal, context, *, k, k_future, zeta):
        extra, advantage = context.rollout.extra, signal.advantage
        as_value = lambda x: jnp.asarray(x, advantage.dtype)
        if steps == "tokens":
            on = signal.mask & (extra["turn"] >= 0)
            slot = _slots(extra["turn"], on)
        else:
            on, slot = signal.mask, jnp.where(signal.mask, 0, signal.mask.shape[1])
        entropy = masked.keep(context.rollout.entropy.astype(advantage.dtype), on)
        # Counted from the least, the means of equal entropies are equal to the last digit.
        least = masked.minimum(entropy, on)
        above, present, first = _steps(entropy - least, slot)
        low, high = masked.minimum(above, present), masked.maximum(above, present)
        h = masked.keep((above - low) / (high - low + EPS), present)
        clear = jnp.exp(-as_value(k) * h)
        g = clear / (masked.mean(clear, present) + EPS)
        future = jnp.exp(-as_value(k_future) * h)
        if steps == "tokens":
            bonus = _of_next_slot(future, present)
        else:
            bonus = _of_next_row(future, present, extra["trajectory"], extra["row_turn"])
        here = jnp.minimum(slot, on.shape[1] - 1)
        of_step = lambda x: jnp.take_along_axis(x, here, axis=1)
        shaped = masked.keep(advantage * of_step(g) + as_value(zeta) * of_step(bonus), on)
        centre = masked.mean(jnp.take_along_axis(shaped, first, axis=1), present)
        signal = signal.note(context, centre=centre, entropy_min=least + low, entropy_max=least + high)
        return signal.replace(advantage=masked.keep(shaped - centre, on))

    needs = {"turn"} if steps == "tokens" else {"trajectory", "row_turn"}
    return tunable("empg", f, hyper, needs=needs, writes={"advantage"})


def _slots(turn, on):
    """The number of the token's step among those of its row, whatever their ids; T outside steps."""
    length = on.shape[1]
    turn = jnp.where(on, turn, jnp.iinfo(turn.dtype).max)
    ordered = jnp.sort(turn, axis=1)
    number = jnp.cumsum(ordered[:, 1:] != ordered[:, :-1], axis=1, dtype=jnp.int32)
    number = jnp.pad(number, ((0, 0), (1, 0)))
    first = jax.vmap(lambda row, ids: jnp.searchsorted(row, ids).astype(jnp.int32))(ordered, turn)
    return jnp.where(on, jnp.take_along_axis(number, first, axis=1), length)


def _steps(entropy, slot):
    """(mean entropy, is there such a step, its first position), each [B, T] with one entry a step at index `slot`."""
    length = slot.shape[1]
    position = jnp.arange(length, dtype=jnp.int32)

    def of_row(slot, entropy):
        n = jnp.zeros((length,), entropy.dtype).at[slot].add(1, mode="drop")
        total = jnp.zeros((length,), entropy.dtype).at[slot].add(entropy, mode="drop")
        first = jnp.full((length,), length - 1, jnp.int32).at[slot].min(position, mode="drop")
        return total / jnp.maximum(n, 1), n > 0, first

    return jax.vmap(of_row)(slot, entropy)


def _of_next_slot(x, present):
    """x at the next step of the same row, 0 after the last."""
    length = x.shape[1]
    index = jnp.where(present, jnp.arange(length, dtype=jnp.int32)[None, :], length)
    following = jax.lax.cummin(index, axis=1, reverse=True)
    following = jnp.pad(following[:, 1:], ((0, 0), (0, 1)), constant_values=length)
    value = jnp.take_along_axis(x, jnp.minimum(following, length - 1), axis=1)
    return jnp.where(following < length, value, 0)


def _of_next_row(x, present, trajectory, turn):
    """x of the row that holds the next turn of the same trajectory (their mean if several do), 0 if there is none."""
    alive = present[:, 0]
    follows = (trajectory[:, None] == trajectory[None, :]) & (turn[:, None] + 1 == turn[None, :])
    others = jnp.broadcast_to(x[:, 0][None, :], follows.shape)
    value = masked.mean(others, follows & alive[None, :], axis=1)
    return jnp.broadcast_to(value[:, None], x.shape)
