"""Decoders of the Llama family in Flax NNX, and their Hugging Face checkpoints."""

from entjax.models.cache import Cache, init_cache, take_rows
from entjax.models.config import DecoderConfig, Rope
from entjax.models.decoder import Decoder
from entjax.models.tiny import tiny
from entjax.models.weights import logical_axes

__all__ = ["Cache", "Decoder", "DecoderConfig", "Rope", "init_cache", "logical_axes", "take_rows", "tiny"]
