"""The back-off of entropy-aware decoding (Stable Entropy Hypothesis, arXiv 2302.06784): leave a rut by the next best token.

    H_t < mu(t) - k sd(t) at w + 1 steps in a row:  go back to the first of them and take the next rank there

`decoding.stable_entropy` is the rule of the loop. Here the host looks at the recorded entropies from time to time, takes rows
that fell into a rut back with `Sampler.rewind`, and tells the rule the position and the rank. Draws depend on sequence and
position only, so the result does not depend on how often the host looks. Defaults w 5, at most 10 back-offs a sequence (released
scripts); the release takes the whole batch back together, here a row goes back alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from entjax.decoding.stable_entropy import StableEntropy, zone
from entjax.rollouts.harvest import take
from entjax.rollouts.rows import begin_rows
from entjax.sampler import Completions, Sampler, Sampling
from entjax.sampler.host import fetch

NAME = "stable_entropy"


def back_off(
    sampler: Sampler,
    params: Any,
    prompts: Sequence[Sequence[int]],
    how: Sampling,
    *,
    key: Any,
    patience: int = 5,
    most: int = 10,
    look: int = 16,
) -> tuple[Completions, np.ndarray]:
    """One completion of every prompt, and how often each row went back; `how.rules` must hold `decoding.stable_entropy()`."""
    if min(patience, most, look) < 1:
        raise ValueError(
            f"back_off() needs patience, most and look from 1, got {patience}, {most} and {look}."
        )
    state = begin_rows(sampler, params, prompts, how, key=key)
    if NAME not in state.rules:
        raise ValueError("back_off() needs decoding.stable_entropy() among the rules of Sampling.")
    used = np.zeros(len(state.length), np.int32)
    while True:
        state = sampler.decode(params, state, look)
        now = fetch({name: getattr(state, name) for name in ("entropy", "prompt_length", "length", "done")})
        rule = state.rules[NAME]
        ruts = [
            _rut(h[p:n], rule, patience)
            for h, p, n in zip(now["entropy"], now["prompt_length"], now["length"])
        ]
        first = np.where(used < most, np.asarray(ruts, np.int32), -1)
        stuck = first >= 0
        if not stuck.any():
            if now["done"].all():
                break
            continue
        used += stuck
        again = np.where(np.asarray(rule.index) == first, np.asarray(rule.rank) + 1, 1)
        rule = rule._replace(
            index=jnp.where(stuck, first, rule.index),
            rank=jnp.where(stuck, again.astype(np.int32), rule.rank),
        )
        back = np.where(stuck, now["prompt_length"] + first, now["length"])
        state = sampler.rewind(state, back).replace(rules={**state.rules, NAME: rule})
    return take(sampler.finish(state), np.arange(len(prompts))), used[: len(prompts)]


def _rut(entropy: np.ndarray, rule: StableEntropy, patience: int) -> int:
    """The index of the first of `patience` + 1 steps in a row below the zone, -1 if there are none."""
    index = np.arange(len(entropy), dtype=np.int32)
    low = (entropy < np.asarray(zone(index, rule)[0])) & (index > int(rule.start))
    run = 0
    for t, below in enumerate(low):
        run = run + 1 if below else 0
        if run > patience:
            return t - patience
    return -1
