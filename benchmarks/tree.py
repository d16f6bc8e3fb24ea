"""Prefix reuse: 16 leaves of a tree against 16 independent rollouts of the same prompts, by count and by clock."""

from __future__ import annotations

import jax
import numpy as np
from flax import nnx

from benchmarks.harness import Row
from benchmarks.work import EOS, MODELS, PAD, Work, make_model
from entjax.rollouts import Strategy, Tools, groups, tree
from entjax.rollouts.stepper import Stepper
from entjax.sampler import Sampling, make_sampler
from entjax.tasks import Example, Report

WORK = Work(prompts=16, samples=16, prompt=32, new=96)


def rows(models=("4.2M",), rounds=3):
    """Completions of one length, as the papers count them; the forks are where the entropy of the trunk is highest."""
    for name in models:
        yield _tree(name, rounds)


def _tree(name: str, rounds: int) -> Row:
    tools, examples = tools_of(make_model(MODELS[name]), WORK)
    tall, plain = tree(forks=3, branches=5), groups()
    found = tall(tools, examples, 0, {}).metrics
    return Row(
        f"tree of 16 leaves, {name}", "all completions of the batch, float32", {**WORK._asdict(), "model": name},
        {"tree": lambda: collect(tall, tools, examples), "independent": lambda: collect(plain, tools, examples)},
        "independent", 0.0, rounds,
        {"tokens computed": found["sampling/tokens_computed"], "share of independent": found["sampling/computed_share"]},
    )  # fmt: skip


def collect(strategy: Strategy, tools: Tools, examples: list[Example]) -> np.ndarray:
    """One harvest, down to the arrays on the host."""
    return strategy(tools, examples, 0, {}).completions.tokens


def tools_of(model, work: Work) -> tuple[Tools, list[Example]]:
    """What a strategy needs of a run, without a trainer: prompts are lists of ids, every answer earns 0."""
    sampler, params = make_sampler(model, eos_ids=[EOS], pad_id=PAD), nnx.split(model)[1]
    key, how = jax.random.key(1), Sampling(work.new)
    encode = lambda text: [int(token) for token in text.split()]
    decode = lambda ids: " ".join(map(str, ids))

    def generate(prompts, *, samples=work.samples, prompt_ids=None):
        return sampler.generate(params, prompts, how, key=key, samples=samples, prompt_ids=prompt_ids)

    tools = Tools(
        generate, lambda example: encode(example.prompt), decode,
        lambda examples, texts: (np.zeros(len(texts), np.float32), Report()), lambda count: [],
        work.samples, Stepper(sampler, params, how, key, 0, encode, decode, compact=32, wave=64),
    )  # fmt: skip
    return tools, [Example(decode(ids)) for ids in work.token_lists(model.config.vocab)]
