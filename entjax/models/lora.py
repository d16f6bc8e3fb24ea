"""Low-rank adapters (Hu et al., arXiv 2106.09685): each matrix W of a layer stays as it is, a product beside it is trained.

    y = x W + (alpha / r) (x A) B,        A [inputs, r] drawn,  B [r, outputs] zero at first

Gradients, the optimizer's moments and a reference policy then exist for A and B alone; frozen matrices are kept in the compute
type, or as int8. `split` is all that a training step needs to know: a model without adapters trains everything. A reference
policy that follows the policy (reference_decay) averages A and B, each by itself.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from flax import nnx

from entjax.models.config import DecoderConfig
from entjax.models.contract import contract
from entjax.models.int8 import SCALE

INPUT, OUTPUT = "_lora_in", "_lora_out"  # behind the name of the matrix
MATRICES = ("query", "key", "value", "out", "gate", "up", "down")


def product(
    subscripts: str, x: jax.Array, weights: dict[str, jax.Array], name: str, config: DecoderConfig
) -> jax.Array:
    """x times the matrix `name` as in einsum, and times its adapter where it has one."""
    y = contract(subscripts, x, weights[name].astype(x.dtype))
    if config.int8:
        y = y * weights[name + SCALE].astype(x.dtype)  # over the last axes, which are the outputs
    if not config.lora:
        return y
    (left, right), result = subscripts.split("->")[0].split(","), subscripts.split("->")[1]
    summed = "".join(axis for axis in right if axis in left)
    rows, outputs = left.replace(summed, ""), right.replace(summed, "")
    low = contract(f"{left},{summed}r->{rows}r", x, weights[name + INPUT].astype(x.dtype))
    added = contract(f"{rows}r,r{outputs}->{result}", low, weights[name + OUTPUT].astype(x.dtype))
    return y + added * (config.lora_alpha / config.lora)


def merged(tensor: np.ndarray, inputs: np.ndarray, outputs: np.ndarray, config: DecoderConfig) -> np.ndarray:
    """W + (alpha / r) A B in float32, the matrix that does both; all as a checkpoint has them, [outputs, inputs]."""
    added = outputs.astype(np.float32) @ inputs.astype(np.float32)
    return tensor.astype(np.float32) + config.lora_alpha / config.lora * added


def split(params: Any) -> tuple[Any, Any]:
    """(what is trained, what is frozen) of a model's parameters: its adapters and the rest, or all of them and None."""
    ours = lambda path, _: str(path[-1]).endswith((INPUT, OUTPUT))
    adapters, rest = nnx.split_state(params, ours, ...)
    return (adapters, rest) if jax.tree.leaves(adapters) else (params, None)


def together(trained: Any, frozen: Any) -> Any:
    """The parameters again, from both parts of `split`."""
    return trained if frozen is None else nnx.merge_state(trained, frozen)
