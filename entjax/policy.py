"""The policy that a config names: its tokenizer, the mesh it lies on, and the model, new or from a checkpoint folder."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
from flax import nnx

from entjax.config import Config, ConfigError
from entjax.config_checks import OF_ADAPTERS
from entjax.models import (
    CheckpointError,
    Decoder,
    DecoderConfig,
    abstract_params,
    alphabet_of,
    has_tokenizer,
    load_config,
    load_hf,
)
from entjax.sharding import Layout, MeshError, make_mesh, resharder
from entjax.tasks import Tokenizer, char_tokenizer, hf_tokenizer


def make_tokenizer(config: Config) -> Tokenizer:
    """The checkpoint's tokenizer; characters for a model without one, on tasks with an alphabet."""
    own = isinstance(config.model, str) and has_tokenizer(config.model)
    if config.task.alphabet is not None and not own:
        tokenizer = char_tokenizer(config.task.alphabet)
        check_alphabet(config)
    else:
        with naming("model", config.model):
            tokenizer = hf_tokenizer(
                str(config.model), system=config.system or None, options=config.chat_options
            )
    check_chat(config, tokenizer)
    return tokenizer


def check_alphabet(config: Config) -> None:
    """Refuse a folder whose ids stand for other characters than the task's."""
    if not isinstance(config.model, str):
        return
    with naming("model", config.model):
        known = alphabet_of(config.model)
    if known not in (None, config.task.alphabet):
        raise ConfigError(
            f"model={config.model} was trained on the characters {known!r}, but the task {config.task.name} has "
            f"{config.task.alphabet!r}: the same ids would mean others. Take another model, or give the task that alphabet."
        )


def check_chat(config: Config, tokenizer: Tokenizer) -> None:
    """Refuse a system message and options that no chat template takes."""
    given = {key: getattr(config, key) for key in ("system", "chat_options") if getattr(config, key)}
    what = ", ".join(f"{key}={value!r}" for key, value in given.items())
    if not given:
        return
    if not config.chat or tokenizer.chat is None:
        why = "the tokenizer has none" if config.chat else "chat=False leaves it out"
        raise ConfigError(
            f"{what}: meant for the chat template, but {why}. Leave it out, or write it into the prompts."
        )
    try:
        text = tokenizer.chat("1")
    except Exception as error:  # whatever the template's own code may raise
        raise ConfigError(f"The chat template of {config.model} refuses {what}: {error}") from error
    if config.system.strip() not in text:
        raise ConfigError(
            f"The chat template of {config.model} leaves out system={config.system!r}: write it into the prompts."
        )


def encode_prompt(config: Config, tokenizer: Tokenizer, prompt: str) -> list[int]:
    """A prompt's token ids: in the chat template, which writes its own marks, else behind the begin mark if there is one."""
    if config.chat and tokenizer.chat is not None:
        return tokenizer.encode(tokenizer.chat(prompt))
    ids, begin = tokenizer.encode(prompt), tokenizer.bos_id
    return ids if begin is None or ids[:1] == [begin] else [begin, *ids]


def split_stops(config: Config, tokenizer: Tokenizer) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """`Config.stop` as (ids, strings): a special token ends a completion by its id, as no text of a completion shows it."""
    ids, strings = [], []
    for stop in config.stop:
        hidden = next((mark for mark in tokenizer.special if mark in stop), None)
        if stop in tokenizer.special:
            ids.append(tokenizer.special[stop])
        elif hidden is not None:
            raise ConfigError(
                f"stop={stop!r} can never match: completions are decoded without {hidden!r}, a special token. Name it alone."
            )
        else:
            strings.append(stop)
    return tuple(ids), tuple(strings)


@contextlib.contextmanager
def naming(key: str, value: Any) -> Iterator[None]:
    """Put the config's key before what is wrong with the folder that it names."""
    try:
        yield
    except (CheckpointError, OSError) as error:
        raise ConfigError(f"{key}={value}: {error}") from error


def make_layout(config: Config) -> Layout | None:
    """The mesh and its rules; None for one device."""
    shape = dict(config.mesh) or ({"fsdp": -1} if jax.process_count() > 1 else {})
    if not shape:
        return None
    layout = Layout(make_mesh(shape), config.sharding)
    layout.check(config)
    return layout


def make_model(config: Config, tokenizer: Tokenizer, layout: Layout | None = None) -> nnx.Module:
    """A new model, or the checkpoint's."""
    if not isinstance(config.model, DecoderConfig):
        model = load_checkpoint(config, layout)
    elif layout is None:
        model = Decoder(config.model, rngs=nnx.Rngs(config.seed))
    else:
        model = layout.create(
            lambda: Decoder(config.model, rngs=nnx.Rngs(config.seed), constrain=layout.constrain)
        )
    if tokenizer.vocab_size > model.config.vocab:
        raise ConfigError(
            f"The tokenizer knows {tokenizer.vocab_size} tokens but the model has {model.config.vocab}: set "
            f"model=ej.models.tiny(vocab={tokenizer.vocab_size}), or use the tokenizer that belongs to the checkpoint."
        )
    return model


def load_checkpoint(config: Config, layout: Layout | None, folder: Any = None) -> nnx.Module:
    """The decoder of a Hugging Face folder (`model` by default); on a mesh every process keeps only its pieces."""
    options, key = dict(config.model_options), "teacher" if folder else "model"
    if folder:
        options = {name: value for name, value in options.items() if name not in OF_ADAPTERS}
    folder = folder or config.model
    with naming(key, folder):
        if layout is None:
            return load_hf(folder, seed=config.seed, **options)
        shapes = abstract_params(load_config(folder, **options))
        model = load_hf(folder, shardings=layout.weights(shapes), seed=config.seed, **options)
    model.constrain = layout.constrain
    return model


def make_for_sampler(config: Config, layout: Layout | None, model: nnx.Module) -> Callable[[Any], Any] | None:
    """From the trainer's weights to the sampler's: its own rules, the compute type (to which every use would cast); or None."""
    if config.sampler_sharding is None:
        return None
    if layout is None:
        raise MeshError("sampler_sharding needs a mesh: set mesh, e.g. mesh=fsdp:-1, or leave it out.")
    return resharder(layout._replace(rules=config.sampler_sharding), nnx.split(model)[1], model.config.dtype)
