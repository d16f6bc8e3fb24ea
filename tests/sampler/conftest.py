"""A tiny random decoder that all sampler tests share, so that compiled functions are shared too."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from entjax import models
from entjax.sampler import Sampler, Sampling, Shapes, make_sampler, multiple_of

EOS = 1
VOCAB = 29
LONGEST = 48


@nnx.jit
def plain_logits(model, tokens):
    return model(tokens) @ model.head()


class World(NamedTuple):
    model: models.Decoder
    params: Any
    sampler: Sampler

    def with_shapes(self, **shapes) -> Sampler:
        """The same compiled functions under other buckets."""
        return self.sampler._replace(shapes=self.sampler.shapes._replace(**shapes))

    def log_probs(self, tokens, temperature=1.0):
        """[T, V] float64: the policy for token t at index t, from one plain full forward of one row."""
        padded = np.zeros((1, LONGEST), np.int32)
        padded[0, : len(tokens)] = tokens
        logits = (
            np.asarray(plain_logits(self.model, jnp.asarray(padded)), np.float64)[0, : len(tokens)]
            / temperature
        )
        shifted = logits - logits.max(-1, keepdims=True)
        logp = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
        return np.concatenate([np.full((1, logp.shape[1]), np.nan), logp[:-1]])


@pytest.fixture(scope="session")
def world() -> World:
    config = models.tiny(vocab=VOCAB, width=32, layers=2, heads=4, kv_heads=2)
    model = models.Decoder(config, rngs=nnx.Rngs(0))
    _, params = nnx.split(model)
    # The start is close to uniform; sharper logits make the entropies of the tests differ.
    params = jax.tree.map(lambda x: x * 2, params)
    nnx.update(model, params)
    # Always 32 rows, so that most tests run the same compiled functions.
    shapes = Shapes(prompt=multiple_of(8), new=multiple_of(8), rows=multiple_of(32))
    sampler = make_sampler(model, eos_ids=[EOS], text=spell, shapes=shapes)
    return World(model, params, sampler)


def spell(ids) -> str:
    """Token 3 is 'd'; every third token spells two letters, token 28 nothing."""
    return "".join("" if i == 28 else chr(97 + i % 26) + ("!" if i % 3 == 2 else "") for i in ids)


PROMPTS = [[5, 6, 7], [8, 9, 10, 11, 12], [3], [20, 21, 22, 23]]
HOW = Sampling(max_new_tokens=12)
