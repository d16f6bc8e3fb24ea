"""What a config says about learning: the objective, its own or the recipe of that name, and the optimizer."""

from __future__ import annotations

import difflib
import inspect
import math
from typing import Any

import optax

from entjax import recipes
from entjax.config import Config, ConfigError
from entjax.loss import Objective


def make_objective(config: Config) -> Objective:
    """The config's own objective, or the recipe by its name."""
    if config.objective is not None:
        return config.objective
    return recipe(config.recipe, dict(config.recipe_options))


def recipe(name: str, options: dict[str, Any]) -> Objective:
    """A recipe by name, with a sentence for unknown names and options."""
    known = recipe_names()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
        raise ConfigError(f"There is no recipe '{name}'" + (f"; did you mean '{near[0]}'?" if near else ".")
                          + " `entjax methods` lists them all.")  # fmt: skip
    make = getattr(recipes, name)
    accepted = inspect.signature(make).parameters
    unknown = sorted(set(options) - set(accepted))
    if unknown:
        raise ConfigError(
            f"recipe_options: the recipe '{name}' has no option {', '.join(unknown)}; it takes {', '.join(accepted) or 'none'}."
        )
    for option, value in options.items():
        default = accepted[option].default
        of_numbers = isinstance(default, (int, float)) and not isinstance(default, bool)
        if of_numbers and (value is None or isinstance(value, str | bool)):
            raise ConfigError(f"recipe.{option}={value!r}: the recipe '{name}' expects a number.")
        if isinstance(value, float) and math.isnan(value):
            raise ConfigError(f"recipe.{option}=nan is no number.")
    try:
        return make(**options)
    except (ValueError, TypeError) as error:
        given = "".join(f" recipe.{option}={value!r}" for option, value in options.items())
        raise ConfigError(f"recipe={name}{given}: {error}") from error


def recipe_names() -> list[str]:
    """The names of all recipes."""
    return sorted(recipes.names())


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
