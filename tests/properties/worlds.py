"""Batches drawn by hypothesis, from the ordinary to the absurd: a Flavour says what is odd about one, `world` makes it.

The policy is a table of logits, so that every position has a gradient of its own and any distribution can be had.
"""

from typing import Any, NamedTuple

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import entjax as ej
from tests.contract.table import inputs

NEVER = -1e30  # becomes the same number as -inf, and 0 * NEVER is 0: a matrix product with -inf would be NaN


class Table(nnx.Module):
    """The policy whose logits are its parameters [B, T, V]: those at index t - 1 predict token t."""

    def __init__(self, logits):
        self.logits = nnx.Param(logits)

    def __call__(self, tokens):
        return self.logits[...]

    def head(self):
        return jnp.eye(self.logits[...].shape[-1])


class Flavour(NamedTuple):
    """What one batch is like; the rest is random by `seed`."""

    start: tuple[int, ...]  # of every row: the first index that may be sampled, at least 1
    length: tuple[int, ...]  # sampled tokens, 0 included
    group: tuple[int, ...]  # -1: filler, without tokens
    reward: tuple[float, ...]
    holes: bool = False  # tool output between sampled tokens
    drift: float = 0.3  # old_logp - logp is this times a normal number; beyond 1: exactly this
    gap: float = 0.1  # between the sampler's and the trainer's log-probs, likewise
    scale: float = 1.0  # of the logits
    forbidden: bool = False  # about half of the vocabulary has logit -inf, sampled tokens included
    certain: bool = False  # the behaviour policy had no doubt: log-prob and entropy 0
    seed: int = 0


class World(NamedTuple):
    rollout: ej.Rollout
    policy: Any  # parameters of a Table
    reference: Any


def flavours(rows: int, length: int, *, absurd: bool = True) -> st.SearchStrategy[Flavour]:
    """Flavours for [rows, length]; without `absurd` no two values are equal by construction and nothing overflows."""
    each = lambda element: st.tuples(*[element] * rows)
    odd = lambda usual, *others: st.sampled_from([usual, *others]) if absurd else st.just(usual)
    rewards = each(st.sampled_from([0.0, 1.0, 0.5, -1.0, 1e-8, 1e4]))
    equal = st.sampled_from([(1.0,) * rows, (0.0,) * rows])
    different = st.permutations([0.1 * i + 0.03 * i**2 for i in range(rows)]).map(tuple)
    return st.builds(
        Flavour,
        start=each(st.integers(1, max(1, min(3, length - 1)))),
        length=each(st.integers(0, length)),
        group=each(st.integers(-1 if absurd else 0, 2)),
        reward=rewards | equal if absurd else different,
        holes=st.booleans(),
        drift=odd(0.3, 0.0, 50.0, -50.0),
        gap=odd(0.1, 0.0, 50.0, -1e9),
        scale=odd(1.0, 0.0, 100.0),
        forbidden=st.booleans() if absurd else st.just(False),
        certain=st.booleans() if absurd else st.just(False),
        seed=st.integers(0, 2**16),
    )


def corners(rows: int, length: int) -> dict[str, Flavour]:
    """The batches that broke other trainers, by name."""
    rng = np.random.default_rng(0)
    usual = Flavour(
        start=(2,) * rows,
        length=tuple(int(n) for n in rng.integers(1, length - 1, rows)),
        group=tuple(2 * i // rows for i in range(rows)),
        reward=tuple(float(i % 3 == 0) for i in range(rows)),
    )
    return {
        "usual": usual,
        "equal rewards": usual._replace(reward=(1.0,) * rows),
        "zero rewards": usual._replace(reward=(0.0,) * rows),
        "all masked": usual._replace(length=(0,) * rows),
        "one token a row": usual._replace(length=(1,) * rows),
        "some rows without a completion": usual._replace(length=tuple(3 * (i % 2) for i in range(rows))),
        "groups of one": usual._replace(group=tuple(range(rows))),
        "filler only": usual._replace(group=(-1,) * rows),
        "ratios of e^50": usual._replace(drift=-50.0, gap=-1e9),
        "ratios of e^-50": usual._replace(drift=50.0),
        "certain": usual._replace(certain=True),
        "forbidden tokens": usual._replace(forbidden=True),
        "one-hot policy": usual._replace(scale=1e4),
    }


def world(flavour: Flavour, length: int, vocab: int, names: tuple[str, ...] = ()) -> World:
    """The batch of a flavour; `names` are optional inputs of single methods."""
    rng, rows = np.random.default_rng(flavour.seed), len(flavour.start)
    shape = (rows, length)
    tokens = rng.integers(0, vocab, shape)
    mask = _mask(flavour, length, rng)
    logits, other = (_logits(flavour, (*shape, vocab), rng) for _ in range(2))
    logp = np.maximum(_logp_before(logits, tokens), -100.0)
    noise = lambda size: size * rng.normal(size=shape) if abs(size) <= 1 else np.full(shape, size)
    old_logp = np.minimum(logp + noise(flavour.drift), 0.0)
    entropy = rng.uniform(0, np.log(vocab), shape)
    if flavour.certain:
        old_logp, entropy = np.zeros(shape), np.zeros(shape)
    narrow = lambda x: np.asarray(x, np.float32)
    rollout = ej.Rollout(
        tokens=tokens.astype(np.int32), mask=mask, entropy=narrow(entropy),
        logp=narrow(np.minimum(old_logp + noise(flavour.gap), 0.0)), old_logp=narrow(old_logp),
        reward=narrow(flavour.reward), group=np.asarray(flavour.group, np.int32),
    )  # fmt: skip
    rollout = rollout.replace(extra=jax.tree.map(np.asarray, inputs(rollout, names, seed=flavour.seed)))
    parameters = lambda x: nnx.split(Table(jnp.asarray(narrow(x))))[1]
    return World(rollout, parameters(logits), parameters(other))


def _mask(flavour, length, rng):
    at = np.arange(length)[None]
    start, end = np.asarray(flavour.start)[:, None], np.add(flavour.start, flavour.length)[:, None]
    mask = (at >= start) & (at < end) & (np.asarray(flavour.group) >= 0)[:, None]
    return mask & (rng.random(mask.shape) < 0.6) if flavour.holes else mask


def _logits(flavour, shape, rng):
    logits = flavour.scale * rng.normal(size=shape)
    if flavour.forbidden:
        allowed = rng.random(shape) < 0.5
        allowed[..., 0] |= ~allowed.any(-1)
        logits = np.where(allowed, logits, NEVER)
    return logits


def _logp_before(logits, tokens):
    """log p(token t) under the logits at t - 1, float64; 0 for the first token, which nothing predicts."""
    before = logits[:, :-1] - logits[:, :-1].max(-1, keepdims=True)
    logp = before - np.log(np.exp(before).sum(-1, keepdims=True))
    chosen = np.take_along_axis(logp, tokens[:, 1:, None], -1)[..., 0]
    return np.pad(chosen, ((0, 0), (1, 0)))
