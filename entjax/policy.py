"""The policy that a config names: its tokenizer, the mesh it lies on, and the model, new or from a checkpoint folder."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
from flax import nnx

from entjax.config import Config, ConfigError
from entjax.models import CheckpointError, Decoder, DecoderConfig, abstract_params, load_config, load_hf
from entjax.sharding import Layout, make_mesh
from entjax.tasks import Tokenizer, char_tokenizer, hf_tokenizer


def make_tokenizer(config: Config) -> Tokenizer:
    """Characters for tasks with an alphabet, else the checkpoint's tokenizer."""
    if config.task.alphabet is not None:
        return char_tokenizer(config.task.alphabet)
    with naming("model", config.model):
        return hf_tokenizer(str(config.model))


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
    folder = folder or config.model
    with naming(key, folder):
        if layout is None:
            return load_hf(folder, **options)
        shapes = abstract_params(load_config(folder, **options))
        model = load_hf(folder, shardings=layout.weights(shapes), **options)
    model.constrain = layout.constrain
    return model
