"""Qwen3-8B with LoRA beside int8 matrices and Clip-Cov on DAPO-Math-17k, on 4 TPU v5e chips. Not run here: compiled only.

Command:   launch/queued_resource.sh --env launch/env.sh run        with CONFIG=configs/qwen3_8b_lora.py
           ACCELERATOR_TYPE=v5litepod-4, TPU_WORKERS=1
Check:     entjax compile configs/qwen3_8b_lora.py --topology v5e:2x2      (figures: docs/scale.md)
Memory:    10.8 GB for the update, 15.0 GB while sampling, of 16 GB a chip (compiled). With bfloat16 in the place of int8
           sampling is refused for its 18.5 GB; on 8 chips (v5e:2x4) it fits.
Needs:     models/Qwen3-8B (a Hugging Face folder) and, with one object a line,
           data/dapo_math.jsonl, data/math500.jsonl: {"prompt": ..., "answer": ...}.
Expect:    nothing is claimed; no TPU was at hand.
"""

import entjax as ej
from entjax.sharding import ShardingRules


def get_config():
    return ej.Config(
        task=ej.tasks.math_file(
            "data/dapo_math.jsonl", "Convert DAPO-Math-17k to objects with prompt and answer."
        ),
        eval_task=ej.tasks.math_file(
            "data/math500.jsonl", "Convert MATH-500 to objects with prompt and answer."
        ),
        model="models/Qwen3-8B",
        model_options={"dtype": "bfloat16", "scan_layers": True, "remat": "full", "lora": 32, "int8": True},
        recipe="clip_cov",
        steps=500,
        prompts=32,
        samples=8,
        max_new_tokens=2048,
        microbatches=32,
        lr=1e-5,
        lr_warmup=10,
        mesh={"fsdp": -1},
        sampler_sharding=ShardingRules(
            embed=(), heads=("fsdp",), kv_heads=("fsdp",), mlp=("fsdp",), vocab=("fsdp",)
        ),
        sampler_rows=48,
        eval_every=20,
        eval_prompts=500,
        eval_samples=4,
        eval_k=(1, 4),
        save_every=10,
    )
