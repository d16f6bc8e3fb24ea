"""Logits agree with numbers that transformers gave (see make_stored.py), without torch."""

import numpy as np
import pytest

from entjax.models import load_hf
from tests.models.families import FAMILIES, tokens_of, write_checkpoint
from tests.models.make_stored import EVERY, STORED


@pytest.mark.parametrize("name", FAMILIES)
def test_logits_equal_the_stored_ones(name, tmp_path):
    raw = FAMILIES[name]
    model = load_hf(write_checkpoint(tmp_path, raw))
    ours = np.asarray(model(tokens_of(raw)) @ model.head())[:, ::EVERY]
    stored = np.load(STORED)[name]
    assert np.abs(stored).max() > 1
    assert np.abs(ours - stored).max() < 2e-4
