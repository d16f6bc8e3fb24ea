"""Sampling alone: whole batches, beside their products and the peers if asked for, and with slot refill against without."""

from __future__ import annotations

import functools
import timeit

import jax
import jax.numpy as jnp

from benchmarks.harness import Row
from benchmarks.peers import peer
from benchmarks.work import EOS, MODELS, PAD, WORK, Work, make_model
from entjax.aot import flops
from entjax.sampler import Sampling, Shapes, make_sampler


def rows(models=("4.2M",), works=("a", "b", "refill"), rounds=5, peers=False):
    """With `peers` beside transformers.generate and Tunix's sampler on the same weights and prompts."""
    for name in models:
        for work_name in works:
            if work_name == "refill":
                yield _refill(name, rounds)
                continue
            work = WORK[work_name]
            decoder = make_model(MODELS[name], work.eos_every)
            others = peer.start(decoder, work, "sample") if peers else {}
            try:
                yield _alone(name, work_name, decoder, others, rounds)
            finally:
                for other in others.values():
                    other.close()


def _alone(model: str, work_name: str, decoder, others, rounds: int) -> Row:
    work, lists = WORK[work_name], WORK[work_name].token_lists(decoder.config.vocab)
    sampler, params = make_sampler(decoder, eos_ids=[EOS], pad_id=PAD), _params(decoder)
    how, key = Sampling(work.new), jax.random.key(1)

    def ours():
        return sampler.generate(params, lists, how, key=key, samples=work.samples).tokens

    tokens = work.rows * work.new
    weights = flops.matrices(decoder.config)
    floor = 2.0 * (weights * (tokens + work.prompts * work.prompt) + flops.head(decoder.config) * tokens)
    return Row(
        f"sampler {work_name}, {model}" + (", peers" if others else ""), "all completions of the batch, float32",
        {**work._asdict(), "model": model},
        {"entjax": ours, "products alone": products_alone(decoder.config, work)}
        | {label: other.step for label, other in others.items()},
        "entjax", floor, rounds,
        {f"tokens, {label}": lambda other=other: other.last["tokens"] for label, other in others.items()},
    )  # fmt: skip


def products_alone(config, work: Work):
    """A closure for all that a batch's new tokens are multiplied with, and nothing else: no program of these shapes is faster.
    The weights, all different, lie on the right or, turned round, on the left, whichever is faster here."""
    query, key = config.heads * config.head_dim, config.kv_heads * config.head_dim
    layer = [
        (config.width, query + 2 * key),
        (query, config.width),
        (config.width, 2 * config.mlp),
        (config.mlp, config.width),
    ]
    shapes = layer * config.layers + [(config.width, config.vocab)]

    @functools.partial(jax.jit, static_argnames="left")
    def token(weights, inputs, left):
        found, last = [], jnp.zeros(())
        for w in weights:
            x, last = jax.lax.optimization_barrier((inputs[w.shape[left]], last))  # one after another
            last = w @ x if left else x @ w
            found.append(last)
        return found

    def laid_out(left):
        weights = [jnp.ones(shape[::-1] if left else shape) for shape in shapes]
        inputs = {k: jnp.ones((k, work.rows) if left else (work.rows, k)) for k, _ in shapes}
        return lambda: jax.block_until_ready(token(weights, inputs, left))

    def seconds(run):
        run()
        return min(timeit.repeat(run, number=1, repeat=3))

    best = min((laid_out(left) for left in (False, True)), key=seconds)
    return lambda: [best() for _ in range(work.new)][-1]


def _refill(model: str, rounds: int) -> Row:
    """256 sequences of very different lengths through 64 slots, or as four batches of 64."""
    work = Work(32, 8, 32, 256, eos_every=64)
    decoder = make_model(MODELS[model], work.eos_every)
    shapes = Shapes(at_once=64)
    lists = work.token_lists(decoder.config.vocab)
    sampler = make_sampler(decoder, eos_ids=[EOS], pad_id=PAD, shapes=shapes)
    params, how, key = _params(decoder), Sampling(work.new), jax.random.key(1)

    def refilled():
        return sampler.generate(params, lists, how, key=key, samples=work.samples).length

    def in_batches():
        return [
            sampler.generate(
                params, lists[i : i + 8], how, key=key, samples=8, prompt_ids=range(i, i + 8)
            ).length
            for i in range(0, 32, 8)
        ]

    lengths = refilled() - work.prompt
    return Row(
        f"refill, {model}", "256 completions of 1 to 256 tokens, 64 at a time", {**work._asdict(), "model": model},
        {"refilled": refilled, "batch after batch": in_batches}, "refilled", 0.0, rounds,
        {"mean length": float(lengths.mean()), "longest": int(lengths.max())},
    )  # fmt: skip


def _params(decoder):
    from flax import nnx

    return nnx.split(decoder)[1]
