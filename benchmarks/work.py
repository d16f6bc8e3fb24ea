"""The models and the work that the benchmarks share: what FACTS-like rows are made of, the same for entjax and its peers.

Random weights, with one channel of the residual stream kept constant so that the logit of EOS can be set: never, or about once
in so many tokens. A Hugging Face folder of these weights (`save_hf`) gives every program the same lengths on average.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import entjax as ej
from entjax.aot import flops
from entjax.models import Decoder, DecoderConfig

EOS, PAD = 1, 0


class Work(NamedTuple):
    """One GRPO step: prompts x samples, tokens of a prompt and (at most) of a completion."""

    prompts: int
    samples: int
    prompt: int
    new: int
    eos_every: int = 0  # tokens between two EOS on average; 0: all completions have `new` tokens

    @property
    def rows(self) -> int:
        return self.prompts * self.samples

    def token_lists(self, vocab: int, seed: int = 0) -> list[list[int]]:
        return np.random.default_rng(seed).integers(2, vocab, (self.prompts, self.prompt)).tolist()


WORK = {"a": Work(8, 8, 32, 64), "b": Work(4, 16, 256, 64), "c": Work(8, 8, 32, 256, eos_every=96)}

MODELS = {
    "4.2M": DecoderConfig(
        vocab=512,
        width=256,
        layers=4,
        heads=4,
        kv_heads=2,
        head_dim=64,
        mlp=1024,
        qkv_bias=True,
        context=1024,
    ),
    "30M": DecoderConfig(
        vocab=4096,
        width=512,
        layers=8,
        heads=8,
        kv_heads=4,
        head_dim=64,
        mlp=1536,
        qkv_bias=True,
        context=1024,
    ),
    "135M": DecoderConfig(
        vocab=49_152,
        width=576,
        layers=30,
        heads=9,
        kv_heads=3,
        head_dim=64,
        mlp=1536,
        tied=False,
        context=2048,
    ),
}


def make_model(config: DecoderConfig, eos_every: int = 0, seed: int = 0) -> Decoder:
    """A decoder whose next token is EOS once in `eos_every` tokens, or never."""
    model = Decoder(config, rngs=nnx.Rngs(seed))
    set_channel = lambda weight, index, value: weight.set_value(weight[...].at[index].set(value))
    set_channel(model.embedding, (slice(None), 0), 1.0)
    layers = [model.layers] if config.scan_layers else model.layers
    for layer in layers:  # nothing writes to channel 0
        set_channel(layer["out"], (..., 0), 0.0)
        set_channel(layer["down"], (..., 0), 0.0)
    set_channel(model.unembedding, 0, 0.0)
    tokens = jax.random.randint(jax.random.key(seed), (4, 64), 2, config.vocab)
    hidden = model(tokens)
    others = jax.nn.logsumexp((hidden @ model.head()).at[..., EOS].set(-jnp.inf), axis=-1).mean()
    wanted = others - math.log(eos_every - 1) if eos_every else others - 40.0
    set_channel(model.unembedding, (slice(None), EOS), 0.0)
    set_channel(model.unembedding, (0, EOS), float(wanted / hidden[..., 0].mean()))
    return model


class Trainer(NamedTuple):
    """The compiled parts of a GRPO step, through the public API."""

    sampler: Any
    plan: Any
    score: Any
    step: Any
    model: Decoder


def make_trainer(
    model: Decoder,
    *,
    packed: bool = True,
    scored: bool = False,
    lr: float = 0.0,
    chunk: int = 2048,
) -> Trainer:
    """`packed` False: plain rows; `scored`: a scoring pass before the update, as with several minibatches."""
    from entjax import packing
    from entjax.sampler import make_sampler

    objective, optimizer = ej.recipes.grpo(), optimizer_of(lr)
    cost = packing.Cost.of(model.config)
    return Trainer(
        make_sampler(model, eos_ids=[EOS], pad_id=PAD),
        (lambda rollout: packing.plan(rollout, cost)) if packed else (lambda rollout: None),
        ej.make_score(model, objective, chunk=chunk) if scored else (
            lambda state, rollout, pack: rollout.replace(old_logp=None)),
        ej.make_train_step(model, objective, optimizer, chunk=chunk),
        model,
    )  # fmt: skip


def optimizer_of(lr: float = 0.0):
    """AdamW; at learning rate 0 it does all its work and the weights stay, so that every round samples the same lengths."""
    import optax

    return optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(lr))


def fresh_state(model: Decoder):
    graphdef, params = nnx.split(model)
    return ej.init_train_state(
        nnx.merge(graphdef, jax.tree.map(jnp.copy, params)),
        ej.recipes.grpo(),
        optimizer_of(),
        jax.random.key(0),
    )


def rollout_of(trainer: Trainer, params: Any, work: Work, key: Any, bucket_rows: bool = True):
    """Sample, reward, and lay out: what a training loop does on the host."""
    from entjax.packing import bucket
    from entjax.rollouts import Harvest, to_rollout
    from entjax.sampler import Sampling
    from entjax.tasks import Report

    how = Sampling(work.new)
    done = trainer.sampler.generate(
        params, work.token_lists(trainer.model.config.vocab), how, key=key, samples=work.samples
    )
    reward = np.asarray(
        [np.mean(np.asarray(done.completion(i)) % 2) for i in range(len(done.length))], np.float32
    )
    harvest = Harvest(done, [], [], reward, Report)
    return to_rollout(harvest, rows=work.rows, length=bucket(int(done.length.max())), temperature=1.0)


class Halves(NamedTuple):
    """Both halves of a GRPO step, each to be run again and again, and the arithmetic of each."""

    trainer: Trainer
    states: list  # the one state, which an update takes out and puts back
    rollout: Any
    pack: Any
    sample: Any
    update: Any
    flops: dict[str, float]


def halves(config: DecoderConfig, work: Work) -> Halves:
    """Rollout and update of a model with random weights."""
    decoder = make_model(config, work.eos_every)
    trainer, states = make_trainer(decoder), [fresh_state(decoder)]
    sample = lambda: rollout_of(trainer, states[0].params, work, jax.random.key(1))
    rollout = sample()
    pack, tokens = trainer.plan(rollout), float(np.asarray(rollout.mask).sum())
    rollout = trainer.score(states[0], rollout, pack)

    def update() -> Any:
        state, metrics = trainer.step(states.pop(), rollout, pack)
        states.append(state)
        return metrics

    flops = {"update": work_flops(config, work, tokens, update_only=True)}
    flops["rollout"] = work_flops(config, work, tokens) - flops["update"]
    return Halves(trainer, states, rollout, pack, lambda: sample().tokens, update, flops)


def work_flops(
    config: DecoderConfig, work: Work, completion_tokens: float, *, update_only: bool = False
) -> float:
    """Matrix arithmetic of a step that computes every token once: 6 per weight and token in the update, 2 in the rollout.
    Attention is left out, as are the logits of prompts."""
    prompts = work.prompts * work.prompt
    inside = 2.0 * flops.matrices(config) * (prompts + completion_tokens)
    head = 2.0 * flops.head(config) * completion_tokens
    return (inside + head) * (3 if update_only else 4)
