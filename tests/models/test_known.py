"""The table of public checkpoints gives the published numbers of parameters."""

import math

import jax
import pytest

from entjax.models import abstract_params
from entjax.models.known import KNOWN, architecture

PUBLISHED = {
    "Qwen2.5-Math-1.5B": 1_543_714_304,
    "Qwen2.5-Math-7B": 7_615_616_512,
    "Qwen3-4B": 4_022_468_096,
    "Qwen3-8B": 8_190_735_360,
    "Llama-3.1-8B": 8_030_261_248,
    "gemma-3-270m": 268_098_176,
    "gemma-3-1b": 999_885_952,
}


@pytest.mark.parametrize("name", KNOWN)
def test_number_of_parameters(name):
    params = abstract_params(architecture(f"somewhere/{name}", scan_layers=True))
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params)) == PUBLISHED[name]


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="does not know the sizes of 'Qwen9'"):
        architecture("models/Qwen9")
