"""From a config to the parts of a run: model, tokenizer, objective, optimizer, compiled functions. Fails before compiling."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from flax import nnx

from entjax import recipes
from entjax.config import Config, ConfigError
from entjax.data import PromptStream, prompts
from entjax.loss import Objective
from entjax.models import Decoder, DecoderConfig, load_hf
from entjax.rollouts import Strategy, groups
from entjax.rollouts.harvest import Tools
from entjax.sampler import Sampler, Sampling, make_sampler
from entjax.step import TrainState, init_train_state, make_score, make_train_step
from entjax.tasks import Example, Scorer, Task, Tokenizer, char_tokenizer, hf_tokenizer, scorer

EVAL_START = 1_000_000_000  # endless tasks: held-out prompts start at this index


class Parts(NamedTuple):
    """Everything of a run that does not change while it goes."""

    config: Config
    model: nnx.Module
    tokenizer: Tokenizer
    objective: Objective
    optimizer: optax.GradientTransformation
    sampler: Sampler
    score: Any
    step: Any
    scorer: Scorer
    strategy: Strategy
    stream: PromptStream
    eval_examples: list[Example]

    def fresh_state(self) -> TrainState:
        """The state before the first step."""
        return init_train_state(self.model, self.objective, self.optimizer, jax.random.key(self.config.seed))

    def tools(self, params: Any, step: int, *, samples: int | None = None, temperature: float | None = None,
              held_out: bool = False) -> Tools:  # fmt: skip
        """What a rollout strategy may use, bound to these weights and this step."""
        c = self.config
        n = c.samples if samples is None else samples
        base = jax.random.fold_in(jax.random.key(c.seed), 2 if held_out else 1)
        policy_temperature = c.temperature if temperature is None else temperature

        def generate(
            tokens: Sequence[Sequence[int]],
            *,
            samples=n,
            prompt_ids=None,
            temperature=policy_temperature,
            key=base,
        ):
            how = Sampling(c.max_new_tokens, temperature, None if held_out else c.rules, (), c.stop)
            return self.sampler.generate(
                params, tokens, how, key=key, step=step, samples=samples, prompt_ids=prompt_ids
            )

        def draw(count: int) -> list[Example]:
            return self.stream.take(count)

        return Tools(generate, self.encode, self.tokenizer.decode, self.scorer.score, draw, n)

    def encode(self, example: Example) -> list[int]:
        """The prompt's token ids, through the chat template where the tokenizer has one."""
        chat = self.tokenizer.chat if self.config.chat else None
        return self.tokenizer.encode(chat(example.prompt) if chat else example.prompt)


def build(config: Config) -> Parts:
    """All parts of a run."""
    tokenizer = make_tokenizer(config)
    objective = make_objective(config)
    model = make_model(config, tokenizer)
    optimizer = make_optimizer(config)
    examples = eval_examples(config)
    parts = Parts(
        config=config,
        model=model,
        tokenizer=tokenizer,
        objective=objective,
        optimizer=optimizer,
        sampler=make_sampler(
            model, eos_ids=tokenizer.stop_ids or (tokenizer.eos_id,), pad_id=tokenizer.pad_id, text=tokenizer.decode
        ),
        score=make_score(model, objective, microbatches=config.microbatches * config.minibatches, chunk=config.chunk),
        step=make_train_step(
            model, objective, optimizer,
            microbatches=config.microbatches, minibatches=config.minibatches, chunk=config.chunk,
        ),
        scorer=scorer(config.task),
        strategy=config.strategy or groups(resample=config.dynamic_sampling),
        stream=prompts(config.task, seed=config.seed, batch=config.prompts),
        eval_examples=examples,
    )  # fmt: skip
    check_prompts(parts)
    return parts


def make_tokenizer(config: Config) -> Tokenizer:
    """Characters for tasks with an alphabet, else the checkpoint's tokenizer."""
    if config.task.alphabet is not None:
        return char_tokenizer(config.task.alphabet)
    return hf_tokenizer(str(config.model))


def make_model(config: Config, tokenizer: Tokenizer) -> nnx.Module:
    """A new model, or the checkpoint's."""
    if isinstance(config.model, DecoderConfig):
        model = Decoder(config.model, rngs=nnx.Rngs(config.seed))
    else:
        model = load_hf(config.model)
    if tokenizer.vocab_size > model.config.vocab:
        raise ConfigError(
            f"The tokenizer knows {tokenizer.vocab_size} tokens but the model has {model.config.vocab}: set "
            f"model=ej.models.tiny(vocab={tokenizer.vocab_size}), or use the tokenizer that belongs to the checkpoint."
        )
    return model


def make_objective(config: Config) -> Objective:
    """The config's own objective, or the recipe by its name."""
    if config.objective is not None:
        return config.objective
    return recipe(config.recipe, dict(config.recipe_options))


def recipe(name: str, options: dict[str, Any]) -> Objective:
    """A recipe by name, with a sentence for unknown names and options."""
    known = recipe_names()
    if name not in known:
        import difflib

        near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
        raise ConfigError(f"There is no recipe '{name}'" + (f"; did you mean '{near[0]}'?" if near else ".")
                          + " `entjax methods` lists them all.")  # fmt: skip
    make = getattr(recipes, name)
    accepted = inspect.signature(make).parameters
    unknown = sorted(set(options) - set(accepted))
    if unknown:
        raise ConfigError(
            f"The recipe '{name}' has no option {', '.join(unknown)}; it takes {', '.join(accepted) or 'none'}."
        )
    try:
        return make(**options)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"recipe={name}: {error}") from error


def recipe_names() -> list[str]:
    """All public functions of entjax.recipes that return an Objective."""
    return sorted(
        name for name, value in vars(recipes).items()
        if inspect.isfunction(value) and value.__module__ == recipes.__name__ and not name.startswith("_")
    )  # fmt: skip


def make_optimizer(config: Config) -> optax.GradientTransformation:
    """AdamW with clipping, warm-up and decay."""
    total = max(config.steps * config.minibatches, 1)
    after = total - config.lr_warmup
    decay = {
        "constant": optax.constant_schedule(config.lr),
        "linear": optax.linear_schedule(config.lr, 0.0, max(after, 1)),
        "cosine": optax.cosine_decay_schedule(config.lr, max(after, 1)),
    }[config.lr_decay]
    warm = optax.linear_schedule(config.lr / (config.lr_warmup + 1), config.lr, max(config.lr_warmup, 1))
    schedule = optax.join_schedules([warm, decay], [config.lr_warmup]) if config.lr_warmup else decay
    clip = optax.clip_by_global_norm(config.clip_gradient) if config.clip_gradient else optax.identity()
    return optax.chain(clip, optax.adamw(schedule, b1=0.9, b2=0.99, weight_decay=config.weight_decay))


def eval_examples(config: Config) -> list[Example]:
    """Fixed held-out prompts: of `eval_task`, or of an endless training task far beyond what a run consumes."""
    task: Task = config.eval_task or config.task
    start = EVAL_START if task.size is None else 0
    count = config.eval_prompts if task.size is None else min(config.eval_prompts, task.size)
    return [task.example(start + i) for i in range(count)]


def check_prompts(parts: Parts) -> None:
    """Refuse, before anything is compiled, prompts that leave no room for an answer."""
    context = parts.model.config.context
    sample = parts.eval_examples + parts.stream.at(0)[:8]
    lengths = np.array([len(parts.encode(example)) for example in sample])
    if lengths.min() < 1:
        raise ConfigError(
            f"The prompt {sample[int(lengths.argmin())].prompt!r} is empty: every prompt needs at least one token."
        )
    worst = int(lengths.argmax())
    if lengths[worst] + parts.config.max_new_tokens > context:
        raise ConfigError(
            f"A prompt of {lengths[worst]} tokens ({sample[worst].prompt[:60]!r}...) and max_new_tokens="
            f"{parts.config.max_new_tokens} do not fit into the model's context of {context} tokens: lower max_new_tokens or "
            "leave out long prompts."
        )
