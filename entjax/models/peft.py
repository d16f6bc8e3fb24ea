"""Adapters as PEFT keeps them: adapter_config.json and adapter_model.safetensors, without the model that they stand beside.

Read by peft, vLLM and SGLang, and small: what a run has learnt in a hundredth of the model's size. A tensor is called as the
matrix is, e.g. base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors.numpy import save_file

from entjax.models.config import DecoderConfig
from entjax.models.decoder import Decoder
from entjax.models.files import CheckpointError, Stored, check_tensors, read_json, some, tensors_in
from entjax.models.lora import MATRICES
from entjax.models.stored import adapters, tensor_reader
from entjax.models.weights import LAYER

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
MODULES = sorted(LAYER[name].source.split(".")[1] for name in MATRICES)  # q_proj, ...
# With these set, an adapter is more than (alpha / r) A B beside its matrix.
MORE = ("rank_pattern", "alpha_pattern", "fan_in_fan_out", "layer_replication", "alora_invocation_tokens",
        "use_dora", "use_qalora", "use_bdlora", "arrow_config")  # fmt: skip
# First values that leave the matrices as they are; PiSSA, OLoRA, LoftQ and others take something out of them.
BESIDE = (True, False, "gaussian", "eva", "orthogonal", None)


def with_rank(folder: str | Path | None, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Changes of a DecoderConfig with those that a PEFT folder decides, if there is one; refuses others in their place."""
    given = {} if folder is None else _rank_of(folder)
    other = [name for name in given if changes.get(name, given[name]) != given[name]]
    if other:
        raise CheckpointError(
            f"{other[0]} is {given[other[0]]} in {folder}, got {changes[other[0]]}: leave it out."
        )
    return {**changes, **given}


def _rank_of(folder: str | Path) -> dict[str, Any]:
    """The fields of DecoderConfig that a PEFT folder decides: lora and lora_alpha."""
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise CheckpointError(
            f"{folder} holds no {CONFIG}: give a folder that peft or `entjax export --adapter` wrote."
        )
    raw = read_json(path)
    if raw.get("peft_type") != "LORA":
        raise CheckpointError(f"{path} describes {raw.get('peft_type')!r}; only LORA is read.")
    more = [f"{name}={raw[name]!r}" for name in MORE if raw.get(name)]
    if raw.get("init_lora_weights") not in BESIDE:
        more.append(f"init_lora_weights={raw['init_lora_weights']!r}")
    if more:
        raise CheckpointError(
            f"{path} sets {', '.join(more)}, which is more than a low-rank product beside a matrix: merge it where it was made "
            "(merge_and_unload of peft) and give the merged folder as model."
        )
    rank, alpha = raw.get("r"), raw.get("lora_alpha")
    if not (isinstance(rank, int) and rank > 0 and isinstance(alpha, (int, float)) and alpha > 0):
        raise CheckpointError(
            f"{path} should say r and lora_alpha, both positive; got {rank!r} and {alpha!r}."
        )
    return {"lora": rank, "lora_alpha": float(alpha) * (math.sqrt(rank) if raw.get("use_rslora") else 1.0)}


def adapter_tensors(folder: str | Path, config: DecoderConfig) -> dict[str, Stored]:
    """The tensors of a PEFT folder under the names that they have beside their matrices; a matrix may be without."""
    folder = Path(folder)
    if not (folder / TENSORS).is_file():
        raise CheckpointError(
            f"{folder} lacks {TENSORS}: save_pretrained of peft writes it, and entjax reads no pickles."
        )
    found = {
        name.removeprefix(PREFIX): stored for name, stored in tensors_in({folder / TENSORS: None}).items()
    }
    shapes = adapters(config)
    strange = sorted(found.keys() - shapes.keys())
    if strange or not found:
        raise CheckpointError(
            f"{folder} holds {some(strange) or 'nothing'}, where the factors of the layers' matrices are looked for: entjax has "
            f"adapters beside {', '.join(MODULES)} of {config.layers} layers and nowhere else."
        )
    pairs = {name: name.replace(".lora_A.", ".lora_B.") for name in shapes if ".lora_A." in name}
    alone = sorted(a for a, b in pairs.items() if (a in found) != (b in found))
    if alone:
        raise CheckpointError(f"{folder} holds only one of the two factors of {alone[0]}; copy it again.")
    check_tensors(folder, found, {name: shapes[name] for name in found})
    return found


def save_adapter(folder: str | Path, model: Decoder, base: str | Path | None = None) -> None:
    """Writes the adapters of a model; `base`: the name or folder of the model that they stand beside, for those who open them.

    Every process of a run calls it, the first one writes.
    """
    folder, config = Path(folder), model.config
    if not config.lora:
        raise CheckpointError(
            "This model has no adapters: all its weights were trained, so write the whole model."
        )
    if (folder / CONFIG).exists():
        raise CheckpointError(f"{folder} already holds an adapter; choose another folder or remove it first.")
    get = tensor_reader(model)
    arrays = {PREFIX + name: np.ascontiguousarray(get(name)) for name in adapters(config)}
    if jax.process_index() != 0:
        return
    folder.mkdir(parents=True, exist_ok=True)
    save_file(arrays, folder / TENSORS, metadata={"format": "pt"})
    raw = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": None if base is None else str(base),
        "r": config.lora, "lora_alpha": config.lora_alpha, "lora_dropout": 0.0, "bias": "none", "use_rslora": False,
        "target_modules": MODULES, "inference_mode": True,
    }  # fmt: skip
    # Last, so that a folder that was cut short is not taken for an adapter.
    (folder / CONFIG).write_text(json.dumps(raw, indent=2) + "\n", encoding="utf-8")
