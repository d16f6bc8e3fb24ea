"""The vocabulary pass (value and gradients) against three bare matmuls of the same shapes.

N = 2048 tokens, D = 1024, V = 151,936, float32: logits = h W, dh = g W^T, dW = h^T g. The base does these and nothing else;
the others also turn logits into the loss of a clipped surrogate, its gradient, and the statistics that their name says.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from benchmarks.harness import Row, temporary_bytes
from entjax import features, vocab

SHAPES = {"tokens": 2048, "width": 1024, "vocabulary": 151_936, "dtype": "float32"}


def rows(tokens=SHAPES["tokens"], chunk=128, rounds=5):
    """One row; the compiled temporary memory of each program goes into the notes."""
    s = {**SHAPES, "tokens": tokens, "chunk": chunk}
    n, d, v = s["tokens"], s["width"], s["vocabulary"]
    keys = jax.random.split(jax.random.key(0), 3)
    hidden = jax.random.normal(keys[0], (8, n // 8, d), s["dtype"])
    head = jax.random.normal(keys[1], (d, v), s["dtype"]) * d**-0.5
    tokens = jax.random.randint(keys[2], (8, n // 8), 0, v, jnp.int32)
    wanted = {
        "logp": {},
        "logp, entropy": {"entropy": vocab.entropy},
        "logp, entropy, sum p^2, top-p entropy": {
            "entropy": vocab.entropy, "prob_sq": vocab.prob_sq, "top_p": features.top_p_entropy(0.9)},
    }  # fmt: skip
    jitted = {"three bare matmuls": jax.jit(_bare)} | {
        f"sweep: {name}": jax.jit(jax.value_and_grad(_loss(terms, tokens, chunk), (0, 1)))
        for name, terms in wanted.items()
    }
    memory = {name: temporary_bytes(f, hidden, head) for name, f in jitted.items()}
    logits = 4 * n * v
    yield Row(
        "vocabulary", "one value and gradient of the loss with respect to hidden states and head", s,
        {name: lambda f=f: f(hidden, head) for name, f in jitted.items()}, "three bare matmuls", 6.0 * n * d * v, rounds,
        {f"temporary memory / one [N, V] array ({name})": b / logits  # the head's gradient is a result, not temporary
         for name, b in memory.items() if name != "three bare matmuls"},
    )  # fmt: skip


def _bare(hidden, head):
    """The three products on their own, in pieces of the size that the sweep uses, so that memory traffic is equal."""
    flat = hidden.reshape(-1, hidden.shape[-1])
    pieces = flat.reshape(-1, min(256, len(flat)), flat.shape[-1])

    def one(total, h):
        logits = h @ head
        return total + h.T @ logits, logits @ head.T

    d_head, d_hidden = jax.lax.scan(one, jnp.zeros_like(head), pieces)
    return d_hidden, d_head


def _loss(terms, tokens, chunk):
    """A clipped surrogate with the terms, all with weights of their own."""

    def per_token(row):
        logp = vocab.logp(row)
        ratio = jnp.exp(logp - jax.lax.stop_gradient(logp))
        losses = -jnp.minimum(ratio, jnp.clip(ratio, 0.8, 1.2))
        for feature in terms.values():
            losses = losses + 0.01 * feature(row)
        return losses, {"logp": jax.lax.stop_gradient(logp)}

    return lambda hidden, head: vocab.sweep(per_token, hidden, head, tokens, {}, chunk=chunk)[0]
