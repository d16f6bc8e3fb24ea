"""The smallest policy and rollout that exercise every shape: shared by the tests."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import entjax as ej


class Bigram(nnx.Module):
    """hidden = tanh(embedding of the token + of its position's parity); enough to have gradients everywhere."""

    def __init__(self, vocab=11, width=8, *, rngs):
        self.embed = nnx.Param(jax.random.normal(rngs.params(), (vocab, width)))
        self.mix = nnx.Param(jax.random.normal(rngs.params(), (width, width)) / width**0.5)
        self.out = nnx.Param(jax.random.normal(rngs.params(), (width, vocab)))

    def __call__(self, tokens, positions=None):
        x = self.embed[...][tokens]
        return jnp.tanh(x + jnp.einsum("btd,de->bte", jnp.cumsum(x, axis=1) / 10.0, self.mix[...]))

    def head(self):
        return self.out[...]


def model(seed=0, **kwargs):
    return Bigram(rngs=nnx.Rngs(seed), **kwargs)


def rollout(seed=0, batch=8, length=11, vocab=11, groups=(4, 4), drift=0.3, extra=None):
    """Random but plausible: prompts of two tokens, ragged completions, binary rewards, ratios off 1 by `drift`."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, length + 1, batch)
    lengths[0], lengths[1] = length, 3
    position = np.arange(length)[None]
    mask = (position >= 2) & (position < lengths[:, None])
    logp = np.log(rng.uniform(0.05, 0.95, (batch, length))).astype(np.float32)
    group = np.concatenate([np.full(n, i) for i, n in enumerate(groups)])[:batch].astype(np.int32)
    return ej.Rollout(
        tokens=jnp.asarray(rng.integers(0, vocab, (batch, length)), jnp.int32),
        mask=jnp.asarray(mask),
        logp=jnp.asarray(logp),
        entropy=jnp.asarray(rng.uniform(0, 2, (batch, length)), jnp.float32),
        old_logp=jnp.asarray(logp + drift * rng.normal(size=(batch, length)), jnp.float32),
        reward=jnp.asarray(rng.integers(0, 2, batch), jnp.float32),
        group=jnp.asarray(group),
        extra=extra or {},
    )
