"""ARES' KL penalty with one coefficient per difficulty bucket (arXiv 2510.08457, code shawn0728/ARES).

    loss += c beta_d k3_it,   e_d = KL_d / KL* - 1,   E_d <- (1 - s) e_d + s E_d,   log beta_d += lr clip(E_d, -x, x)

KL_d is a moving average (weight s on the old value) of the mean KL of the bucket's answers; beta_d changes every `interval`
calls, and only where |e_d| >= deadzone. Defaults c 1e-2, KL* 0.01, s 0.97, x 0.2, lr 0.05, interval 100, deadzone 0.02, beta
in [1e-4, 100] from 1. Put it into the per_rollout chain: there whole groups tell the difficulty, and the KL is that of the
behaviour policy; the released code counts optimizer steps. Its relaxation and its dual ascent have no effect and are left out.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from entjax import kl, masked
from entjax.rewards.ares_bucket import BUCKETS, difficulty
from entjax.transform import Transform, stateful


class KLBuckets(NamedTuple):
    log_beta: Float[Array, " 3"]
    kl: Float[Array, " 3"]  # moving average, meaningless while `seen` is 0
    seen: Float[Array, " 3"]
    error: Float[Array, " 3"]
    calls: Int[Array, ""]


class Law(NamedTuple):
    """The constants of the controller."""

    target: float = 0.01
    smooth: float = 0.97
    clip: float = 0.2
    lr: float = 0.05
    interval: int = 100
    deadzone: float = 0.02
    low: float = 1e-4
    high: float = 100.0


def start_kl_buckets() -> KLBuckets:
    """beta = 1 everywhere."""
    zeros = (jnp.zeros(BUCKETS, jnp.float32) for _ in range(4))  # no buffer twice: the state is donated
    return KLBuckets(*zeros, jnp.zeros((), jnp.int32))


def update_kl_buckets(
    state: KLBuckets,
    sequence_kl: Float[Array, " B"],
    bucket: Int[Array, " B"],
    rows: Bool[Array, " B"],
    law: Law,
) -> KLBuckets:
    """The state after a batch; a bucket without rows is left alone."""
    inside = rows[:, None] & (bucket[:, None] == jnp.arange(BUCKETS)[None, :])
    here = masked.mean(jnp.broadcast_to(sequence_kl[:, None], inside.shape), inside, axis=0)
    here, present = here.astype(jnp.float32), inside.any(axis=0)
    average = jnp.where(state.seen > 0, law.smooth * state.kl + (1 - law.smooth) * here, here)
    calls = state.calls + 1
    e = average / law.target - 1
    acts = present & (calls % law.interval == 0) & (jnp.abs(e) >= law.deadzone)
    error = jnp.where(acts, law.smooth * state.error + (1 - law.smooth) * e, state.error)
    moved = state.log_beta + law.lr * jnp.clip(error, -law.clip, law.clip)
    moved = jnp.clip(moved, jnp.log(law.low), jnp.log(law.high))
    return KLBuckets(
        jnp.where(acts, moved, state.log_beta),
        jnp.where(present, average, state.kl),
        jnp.maximum(state.seen, present.astype(jnp.float32)),
        error,
        calls,
    )


def ares_kl(coef: float = 1e-2, law: Law | None = None, *, correct: float = 1.0) -> Transform:
    """KL penalty whose strength follows the difficulty of the prompt; needs extra["ref_logp"]."""
    law = law or Law()
    if coef < 0 or law.interval < 1 or not law.low < law.high or not law.target > 0:
        raise ValueError(
            f"ares_kl needs coef >= 0, interval >= 1, low < high and target > 0, got coef={coef}, law={law}."
        )

    def f(signal, state, context, **_):
        rollout, rows = context.rollout, (context.rollout.group >= 0) & context.rollout.mask.any(axis=1)
        gap = masked.gap(rollout.extra["ref_logp"], rollout.old_logp, rollout.mask)
        sequence_kl = masked.mean(kl.k3().value(gap), rollout.mask, axis=1)
        bucket = difficulty(masked.wide(rollout.reward >= correct), rollout.group)
        state = update_kl_buckets(state, sequence_kl, bucket, rows, law)
        beta = jnp.exp(state.log_beta)
        per_row = (coef * beta[bucket])[:, None].astype(signal.weight.dtype)
        signal = signal.add_term(kl.feature_name(), jnp.broadcast_to(per_row, signal.weight.shape))
        return signal.note(context, easy=beta[0], medium=beta[1], hard=beta[2]), state

    return stateful(
        "ares_kl",
        start_kl_buckets,
        f,
        {"coef": coef, **law._asdict()},
        terms={kl.feature_name(): kl.feature()},
        needs={"ref_logp"},
        writes={"coef"},
        owns={"kl"},
    )
