"""Agreement with transformers and torch, in both directions; skipped where torch is absent."""

import numpy as np
import pytest

from entjax.models import Rope, load_hf, save_hf
from entjax.models.rope import inverse_frequencies
from tests.models.families import FAMILIES, tokens_of, write_checkpoint
from tests.models.make_stored import logits_of_transformers

pytest.importorskip("torch")

TOLERANCE = 2e-4


def logits_of(model, tokens):
    return np.asarray(model(tokens) @ model.head())


@pytest.mark.parametrize("name", FAMILIES)
def test_a_checkpoint_gives_the_logits_of_transformers(name, tmp_path):
    raw = FAMILIES[name]
    tokens = tokens_of(raw)
    folder = write_checkpoint(tmp_path, raw)
    theirs, ours = logits_of_transformers(folder, tokens), logits_of(load_hf(folder), tokens)
    assert np.abs(theirs).max() > 1  # or the agreement would say little
    assert np.abs(theirs - ours).max() < TOLERANCE


@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_written_opens_in_transformers_with_the_same_logits(name, tmp_path):
    raw = FAMILIES[name]
    tokens = tokens_of(raw)
    scan = len(name) % 2 == 0  # both layouts of the layers, one file and several
    model = load_hf(write_checkpoint(tmp_path / "in", raw), scan_layers=scan)
    save_hf(tmp_path / "out", model, shard_bytes=20_000 if scan else 2**30)
    assert (
        np.abs(logits_of_transformers(tmp_path / "out", tokens) - logits_of(model, tokens)).max() < TOLERANCE
    )


LLAMA31 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
REAL = {
    "llama31_8b": (Rope("llama3", 500_000.0, original_context=8192, **LLAMA31), 128, LLAMA31, 8192),
    "qwen25_7b_yarn": (Rope("yarn", 1e6, 4.0, original_context=32_768), 128, {"factor": 4.0}, 32_768),
}


@pytest.mark.parametrize("name", REAL)
def test_frequencies_of_real_sizes(name):
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    rope, head_dim, scaling, original = REAL[name]
    scaling = scaling | {"rope_type": rope.kind, "original_max_position_embeddings": original}
    scaling["rope_theta"] = rope.theta
    config = LlamaConfig(
        hidden_size=head_dim * 4,
        num_attention_heads=4,
        head_dim=head_dim,
        max_position_embeddings=131_072,
        rope_parameters=scaling,
    )
    expected, factor = ROPE_INIT_FUNCTIONS[rope.kind](config)
    ours, our_factor = inverse_frequencies(rope, head_dim)
    # At position 30,000 this is an angle wrong by less than 0.01.
    np.testing.assert_allclose(ours, expected.numpy(), rtol=3e-7)
    assert our_factor == pytest.approx(factor, rel=1e-12)
