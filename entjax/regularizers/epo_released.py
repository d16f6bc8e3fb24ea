"""EPO as its code was released (WujiangXu/EPO): an entropy bonus, and a band penalty that has no gradient.

    loss += -c (agg H - c_s agg(P w_k)),    P_t = penalty where H_t lies outside (kappa_l Hbar, kappa_r Hbar), else 0
    w_k = 1 - .2 (1 - exp(-2 k / 75))  for k <= 75,    .8 exp(-3 (k - 75) / 75)  after (150 epochs in all: it jumps at 75)

P is a constant step function of H: training equals the plain bonus, and the penalty is only reported. Hbar is the history's mean
at the row's environment step (rollout.extra["turn"], its first valid token; with `turns=1` one history), the current step
included. mode="seq" compares the mean over a whole row of the batch, prompt and padding included. The gate "only if a
row reached half of the allowed environment steps" is left out. Defaults: c 1e-3, c_s 1, band .8/1.2, penalty .1 (code; scripts
0/2, .05 and .1).
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array

from entjax import masked, vocab
from entjax.control import Target
from entjax.regularizers.epo import EpoState, remember, turn_index
from entjax.transform import Transform, stateful


def epo_released(
    coef: Target = 1e-3,
    *,
    smooth: float = 1.0,
    lower: float = 0.8,
    upper: float = 1.2,
    penalty: float = 0.1,
    mode: str = "token",
    epochs: int = 150,
    turns: int = 1,
) -> Transform:
    """The plain entropy bonus, with EPO's penalty as a metric."""
    if mode not in ("token", "seq"):
        raise ValueError(f"epo_released's mode must be 'token' or 'seq', got {mode!r}.")

    def f(signal, state, context, *, coef):
        mask = signal.mask
        whole = masked.wide(context.stats["entropy"])
        H = masked.keep(whole, mask)
        turn = turn_index(context.rollout, turns)
        state = remember(state, H, mask, turn)
        history = (state.total / jnp.maximum(state.count, 1)).astype(H.dtype)
        seen = jnp.broadcast_to(whole.mean(axis=1, keepdims=True), H.shape) if mode == "seq" else H
        P = penalty * outside(seen, history[turn], lower, upper)
        weighted = epoch_weight(jnp.asarray(context.step, H.dtype), epochs) * masked.mean(P, mask)
        bonus = jnp.asarray(coef, H.dtype)
        signal = signal.add_term("entropy", masked.keep(-bonus, mask))
        value = -bonus * (masked.mean(H, mask) - smooth * weighted)
        return signal.note(context, penalty=weighted, value=value), state

    return stateful(
        "epo_released",
        lambda: EpoState(jnp.zeros(turns, jnp.float32), jnp.zeros(turns, jnp.float32)),
        f,
        {"coef": coef},
        reads={"entropy": vocab.entropy},
        terms={"entropy": vocab.entropy},
        needs={"turn"} if turns > 1 else (),
        writes={"coef"},
        owns={"entropy"},
    )


def outside(H: Array, reference: Array, lower: float, upper: float) -> Array:
    """1 where H is not strictly inside (lower, upper) times the reference, else 0."""
    inside = (lower * reference < H) & (upper * reference > H)
    return jnp.where(inside, 0, 1).astype(H.dtype)


def epoch_weight(epoch: Array, epochs: int = 150) -> Array:
    """w_k of the release; half = epochs / 2."""
    half = epochs / 2
    early = 1 - 0.2 * (1 - jnp.exp(-2 * epoch / half))
    return jnp.where(epoch <= half, early, 0.8 * jnp.exp(-3 * (epoch - half) / half))
