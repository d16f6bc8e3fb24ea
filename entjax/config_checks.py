"""What can be wrong with the values of a config, each said in a sentence before anything is compiled."""

from __future__ import annotations

from typing import Any

from entjax.models import DecoderConfig


class ConfigError(ValueError):
    """Something is wrong with a config; the message says what to change."""


POSITIVE = ("prompts", "samples", "max_new_tokens", "temperature", "lr", "minibatches", "microbatches", "chunk", "sampler_rows",
            "sft_batch", "sft_lr", "eval_prompts", "eval_samples", "save_every", "keep", "stop_after_skips")  # fmt: skip
NOT_NEGATIVE = ("steps", "seed", "lr_warmup", "weight_decay", "clip_gradient", "sft_steps", "eval_every", "log_samples",
                "dynamic_sampling", "lag")  # fmt: skip
LARGEST = 2**31 - 1


def check_values(c: Any) -> None:
    """Refuse values that mean nothing or do not go together."""
    for name in POSITIVE + NOT_NEGATIVE:
        value = getattr(c, name)
        low = value > 0 if name in POSITIVE else value >= 0
        if not low or not value <= LARGEST:
            raise ConfigError(
                f"{name}={value}: must be {'greater than 0' if name in POSITIVE else 'at least 0'} and finite."
            )
    if c.lag > 1:
        raise ConfigError(
            f"lag={c.lag}: rollouts are made by the policy of the step (0) or of the step before (1)."
        )
    try:
        rows = c.rows
    except ValueError as error:
        raise ConfigError(f"strategy: {error}") from error
    if c.strategy is not None and c.dynamic_sampling:
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
