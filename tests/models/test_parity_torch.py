"""Logits agree with transformers on every family, in both directions; skipped where torch is absent."""

import numpy as np
import pytest
from tests.models.families import FAMILIES, tokens_of, write_checkpoint

from entjax.models import load_hf, save_hf

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

TOLERANCE = 2e-4


def logits_of_transformers(folder, tokens):
    model = transformers.AutoModelForCausalLM.from_pretrained(
        str(folder), dtype=torch.float32, attn_implementation="eager", local_files_only=True
    ).eval()
    with torch.no_grad():
        return model(torch.from_numpy(tokens).long()).logits.numpy()


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


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_written_opens_in_transformers_with_the_same_logits(name, scan, tmp_path):
    raw = FAMILIES[name]
    tokens = tokens_of(raw)
    model = load_hf(write_checkpoint(tmp_path / "in", raw), scan_layers=scan)
    save_hf(tmp_path / "out", model, shard_bytes=20_000 if scan else 2**30)
    assert np.abs(logits_of_transformers(tmp_path / "out", tokens) - logits_of(model, tokens)).max() < TOLERANCE
