"""Decoders (Llama, Mistral, Qwen, Gemma 3) in Flax NNX, and their Hugging Face checkpoints."""

from entjax.models.cache import Cache, init_cache, take_rows
from entjax.models.config import DecoderConfig, Rope, Sliding
from entjax.models.decoder import Decoder
from entjax.models.files import CheckpointError
from entjax.models.hf import abstract_params, alphabet_of, load_config, load_hf, save_hf
from entjax.models.peft import save_adapter
from entjax.models.tiny import tiny
from entjax.models.tokenizer import has_tokenizer, load_tokenizer
from entjax.models.weights import logical_axes

__all__ = [
    "Cache",
    "CheckpointError",
    "Decoder",
    "DecoderConfig",
    "Rope",
    "Sliding",
    "abstract_params",
    "alphabet_of",
    "has_tokenizer",
    "init_cache",
    "load_config",
    "load_hf",
    "load_tokenizer",
    "logical_axes",
    "save_adapter",
    "save_hf",
    "take_rows",
    "tiny",
]
