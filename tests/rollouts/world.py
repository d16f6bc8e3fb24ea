"""A tiny run's parts, its tools, and float64-free helpers that all tests of rollouts share; nothing is trained here."""

import functools

import jax
import numpy as np
from flax import nnx

import entjax as ej
from entjax import setup
from entjax.rollouts import as_strategy

SAMPLES = 10


def config(**changes):
    base = dict(  # noqa: C408
        task=ej.tasks.countdown(numbers=3, split="train"),
        model=ej.models.tiny(vocab=19, width=16, layers=1, heads=2, context=96),
        steps=2, prompts=4, samples=SAMPLES, max_new_tokens=24, lr=1e-3, seed=3,
        eval_prompts=2, eval_samples=2, eval_k=(1,), eval_every=0,
    )  # fmt: skip
    return ej.Config(**{**base, **changes})


@functools.lru_cache(None)
def parts(**changes):
    """Compiled functions are shared by tests with the same changes."""
    return setup.build(config(**dict(changes)))


def params(run=None):
    """Weights of the tiny model, sharper than at the start so that entropies differ."""
    _, weights = nnx.split((run or parts()).model)
    return jax.tree.map(lambda x: x * 3.0, weights)


def tools(step=0, samples=SAMPLES, **changes):
    run = parts(**changes)
    return run.tools(params(run), step, samples=samples)


def examples(count=4, start=0, task=None):
    task = task or config().task
    return [task.example(start + i) for i in range(count)]


def collect(strategy, step=0, samples=SAMPLES, count=4, knobs=None, **changes):
    given = examples(count, task=changes.get("task"))
    return as_strategy(strategy)(tools(step, samples, **changes), given, step, knobs or {})


def policy(tokens, run=None):
    """[T, V] log-probs of the policy for token t at index t from one full forward, the sampler having no part in it."""
    graphdef, _ = nnx.split((run or parts()).model)
    return _logp(graphdef, params(run), np.asarray(tokens, np.int32)[None])


@functools.partial(jax.jit, static_argnums=0)
def _full(graphdef, weights, tokens):
    model = nnx.merge(graphdef, weights)
    return jax.nn.log_softmax(model(tokens) @ model.head(), axis=-1)


def _logp(graphdef, weights, tokens):
    padded = np.zeros((1, 96), np.int32)
    padded[0, : tokens.shape[1]] = tokens[0]
    found = np.asarray(_full(graphdef, weights, padded))[0, : tokens.shape[1]]
    return np.concatenate([np.full((1, found.shape[1]), np.nan), found[:-1]])


def check(harvest, samples=SAMPLES, groups=4, run=None):
    """What holds for every harvest: group sizes, masks inside completions, and log-probs that a plain forward confirms."""
    c = harvest.completions
    ids, sizes = np.unique(c.group, return_counts=True)
    assert len(ids) == groups and (sizes == samples).all(), (ids, sizes)
    position = np.arange(c.tokens.shape[1])[None]
    outside = (position < c.prompt_length[:, None]) | (position >= c.length[:, None])
    assert not (c.mask & outside).any()
    assert (c.mask.sum(1) > 0).all()
    for row in range(0, len(c.length), 7):
        logp = policy(c.tokens[row, : c.length[row]], run)
        at = np.flatnonzero(c.mask[row])
        np.testing.assert_allclose(c.logp[row, at], logp[at, c.tokens[row, at]], rtol=0, atol=2e-5)
        entropy = -(np.exp(logp[at]) * logp[at]).sum(1)
        np.testing.assert_allclose(c.entropy[row, at], entropy, rtol=0, atol=5e-5)
    for row, (example, text) in enumerate(zip(harvest.examples, harvest.texts, strict=True)):
        tokenizer = (run or parts()).tokenizer
        assert text == tokenizer.decode(c.completion(row))
        prompt = tokenizer.encode(example.prompt)
        assert c.tokens[row, : c.prompt_length[row]].tolist() == prompt
