"""Cross-sampling ("Sparse but Critical", arXiv 2603.22446): one policy writes, another decides where they differ most.

At each token both policies look at the same prefix. Where their Jensen-Shannon divergence exceeds eps the token is drawn from
`second`, elsewhere from `first`. Base as `first` and the tuned policy as `second` asks how few tokens make the difference; the
other way round, how fast it is lost. eps = 0.1 as in the paper; eps >= ln 2 is `first` alone.

Every token costs a pass over the whole row with both policies (no cache): for short completions and small policies.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Int

from entjax import vocab
from entjax.analysis.sparse_but_critical import jensen_shannon


def make_cross_sample(
    model: nnx.Module, *, eos_ids: tuple[int, ...], pad_id: int, eps: float = 0.1, temperature: float = 1.0
):
    """sample(first, second, tokens [B, T], start [B], key) -> (tokens, mask of sampled tokens, mask of those from `second`).

    `first` and `second` are parameters of `model`; row i holds a prompt of start[i] tokens and room up to T.
    """
    graphdef, _ = nnx.split(model)

    def logits(params: Any, tokens: Array, t: Array) -> Array:
        policy = nnx.merge(graphdef, params)
        hidden = jax.lax.dynamic_slice_in_dim(policy(tokens), t - 1, 1, axis=1)[:, 0]
        return vocab.finite_logits(hidden @ policy.head().astype(hidden.dtype), temperature)

    @jax.jit
    def sample(
        first, second, tokens: Int[Array, "B T"], start: Int[Array, " B"], key
    ) -> tuple[Array, Array, Array]:
        tokens = jnp.asarray(tokens, jnp.int32)
        nothing = jnp.zeros(tokens.shape, bool)

        def one(t, carry):
            tokens, mask, crossed, done = carry
            a, b = logits(first, tokens, t), logits(second, tokens, t)
            js = jensen_shannon(vocab.Row(b, jnp.zeros(b.shape[:1], jnp.int32), {"ref_logits": a}))
            other = js > eps
            drawn = jax.random.categorical(jax.random.fold_in(key, t), jnp.where(other[:, None], b, a))
            writes = (t >= start) & ~done
            put = lambda x, value: x.at[:, t].set(jnp.where(writes, value, x[:, t]))
            drawn = drawn.astype(jnp.int32)
            done = done | (writes & _any_of(drawn, eos_ids))
            return put(tokens, drawn), put(mask, writes), put(crossed, other), done

        done: Bool[Array, " B"] = jnp.zeros(tokens.shape[0], bool)
        tokens, mask, crossed, _ = jax.lax.fori_loop(
            1, tokens.shape[1], one, (tokens, nothing, nothing, done)
        )
        position = jnp.arange(tokens.shape[1], dtype=jnp.int32)
        keep = mask | (position[None] < start[:, None])
        return jnp.where(keep, tokens, pad_id), mask, crossed & mask

    return sample


def _any_of(token: Array, ids: tuple[int, ...]) -> Array:
    return (token[:, None] == jnp.asarray(ids, jnp.int32)[None]).any(-1)
