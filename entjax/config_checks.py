"""What can be wrong with the values of a config, each said in a sentence before anything is compiled."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from entjax import decoding, rollouts
from entjax.loss import Objective
from entjax.models import DecoderConfig
from entjax.sft import TextLoss
from entjax.sharding import ShardingRules
from entjax.tasks import Task
from entjax.tasks.task import check_verifier
from entjax.transform import Transform


class ConfigError(ValueError):
    """Something is wrong with a config; the message says what to change."""


POSITIVE = ("prompts", "samples", "max_new_tokens", "temperature", "lr", "minibatches", "microbatches", "chunk", "sampler_rows",
            "sft_batch", "sft_lr", "eval_prompts", "eval_samples", "eval_temperature", "save_every", "keep", "stop_after_skips",
            "verifier_workers", "verifier_seconds")  # fmt: skip
NOT_NEGATIVE = ("steps", "seed", "lr_warmup", "weight_decay", "clip_gradient", "sft_steps", "eval_every", "log_samples",
                "dynamic_sampling", "lag")  # fmt: skip
LARGEST = 2**31 - 1
MOST_WORKERS = 256
LONGEST_VERIFICATION = 3600.0
MOST_ROWS = 2**24  # of one batch: beyond that somebody meant something else

A_TASK = "a Task, e.g. ej.tasks.countdown(numbers=3)"
KINDS = {
    "task": (Task, A_TASK),
    "eval_task": (Task | None, f"{A_TASK}, or None"),
    "model": (DecoderConfig | str, "ej.models.tiny(...), a DecoderConfig, or a checkpoint folder"),
    "model_options": (Mapping, "fields of DecoderConfig by name, adapter"),
    "chat_options": (Mapping, "values by the name that the chat template reads"),
    "recipe_options": (Mapping, "arguments of the recipe by name"),
    "teacher": (str | None, "a checkpoint folder, or None"),
    "sft_loss": (TextLoss | None, "a loss of ej.sft, or None"),
    "objective": (Objective | None, "an ej.Objective, or None for the recipe"),
    "mesh": (Mapping, "sizes by mesh axis, e.g. {'fsdp': -1}"),
    "sharding": (ShardingRules, "ShardingRules"),
    "sampler_sharding": (ShardingRules | None, "ShardingRules, or None"),
}


DECODER_FIELDS = frozenset(field.name for field in dataclasses.fields(DecoderConfig))
OF_ADAPTERS = (
    "lora",
    "lora_alpha",
    "adapter",
    "int8",
)  # model options of a policy; a teacher is never trained


def check_kinds(c: Any) -> None:
    """Refuse objects of another kind than the field's."""
    for name, (kind, what) in KINDS.items():
        value = getattr(c, name)
        if not isinstance(value, kind):
            raise ConfigError(f"{name}={value!r}: expected {what}.")
        if isinstance(value, Mapping) and not all(isinstance(key, str) for key in value):
            raise ConfigError(f"{name}={value!r}: expected {what}; its keys must be words.")
    unknown = sorted(set(c.model_options) - DECODER_FIELDS - {"adapter"})
    if unknown:
        raise ConfigError(f"model_options: a decoder has no field {', '.join(unknown)}.")
    if not all(type(size) is int for size in c.mesh.values()):
        raise ConfigError(f"mesh={dict(c.mesh)!r}: expected {KINDS['mesh'][1]}.")
    for name in ("rules", "strategy"):
        value = getattr(c, name)
        if not (value is None or callable(value) or (name == "rules" and isinstance(value, Transform))):
            raise ConfigError(f"{name}={value!r}: expected a {name.removesuffix('s')} or None.")
        if value in (vars(rollouts) | vars(decoding)).values() and value is not decoding.hapo:
            raise ConfigError(
                f"{name}={value.__name__}: call it, {name}=ej.{value.__module__.split('.')[1]}.{value.__name__}()."
            )


def check_values(c: Any) -> None:
    """Refuse values that mean nothing or do not go together."""
    for name in POSITIVE + NOT_NEGATIVE:
        value = getattr(c, name)
        low = value > 0 if name in POSITIVE else value >= 0
        if not low or not value <= LARGEST:
            raise ConfigError(
                f"{name}={value}: must be {'greater than 0' if name in POSITIVE else 'at least 0'} and finite."
            )
    lost = {k: v for k, v in c.model_options.items() if c.teacher is None or k in OF_ADAPTERS}
    if isinstance(c.model, DecoderConfig) and lost:  # what is left is for the teacher
        raise ConfigError(
            f"model_options={lost!r} are for the checkpoint in a folder, and model is a DecoderConfig: set them there, with "
            "model.replace(...)."
        )
    for names in (("prompts", "samples"), ("eval_prompts", "eval_samples"), ("sft_batch",)):
        rows = math.prod(getattr(c, name) for name in names)
        if rows > MOST_ROWS:
            raise ConfigError(
                f"{' * '.join(names)} = {rows} rows in one batch: at most {MOST_ROWS} are sensible."
            )
    _check_verifiers(c)
    if c.lag > 1:
        raise ConfigError(
            f"lag={c.lag}: rollouts are made by the policy of their own step (0) or of the step before (1)."
        )
    try:
        rows = c.rows
    except ValueError as error:
        raise ConfigError(f"strategy: {error}") from error
    if c.dynamic_sampling and (c.strategy is not None or c.sampled_by.name != "groups"):
        raise ConfigError(
            f"dynamic_sampling={c.dynamic_sampling} belongs to plain groups and a strategy is set: leave one of them out."
        )
    if rows % (c.minibatches * c.microbatches):
        made = "prompts * samples" if rows == c.prompts * c.samples else "The strategy's"
        raise ConfigError(
            f"{made} = {rows} rows cannot be split into minibatches={c.minibatches} times "
            f"microbatches={c.microbatches}: choose numbers whose product divides {rows}."
        )
    if c.lr_decay not in ("constant", "linear", "cosine"):
        raise ConfigError(f"lr_decay={c.lr_decay!r}: choose 'constant', 'linear' or 'cosine'.")
    if not c.eval_k or min(c.eval_k) < 1 or max(c.eval_k) > c.eval_samples:
        raise ConfigError(f"eval_k={c.eval_k}: every k must lie between 1 and eval_samples={c.eval_samples}.")
    if c.sft_steps and c.task.solution is None:
        raise ConfigError(
            f"sft_steps={c.sft_steps}, but the task {c.task.name} offers no worked solutions: set sft_steps=0."
        )
    if c.sft_loss is not None and c.sft_loss.teacher and not c.teacher:
        raise ConfigError(f"sft_loss={c.sft_loss.name} compares with a teacher: set teacher=FOLDER.")
    if isinstance(c.model, DecoderConfig) and c.task.alphabet is None:
        raise ConfigError(
            f"The task {c.task.name} is not character-level: `model` must be a checkpoint folder with a tokenizer."
        )
    if isinstance(c.model, DecoderConfig) and c.max_new_tokens >= c.model.context:
        raise ConfigError(
            f"max_new_tokens={c.max_new_tokens} does not fit into the model's context of {c.model.context} tokens."
        )
    if c.profile:
        first, colon, last = c.profile.partition(":")
        if not (colon and first.isdigit() and last.isdigit() and int(first) < int(last)):
            raise ConfigError(f"profile={c.profile!r}: expected FIRST:LAST, e.g. 10:12.")
    if c.steps and c.lr_warmup > c.steps * c.minibatches:
        raise ConfigError(
            f"lr_warmup={c.lr_warmup} is longer than the run of {c.steps * c.minibatches} optimizer steps."
        )


def _check_verifiers(c: Any) -> None:
    for name, most in (("verifier_workers", MOST_WORKERS), ("verifier_seconds", LONGEST_VERIFICATION)):
        if getattr(c, name) > most:
            raise ConfigError(f"{name}={getattr(c, name)}: at most {most:g} are sensible.")
    for task in (c.task, c.eval_task or c.task):
        try:
            check_verifier(task)
        except ValueError as error:
            raise ConfigError(str(error)) from error
