"""Qwen2.5-Math-7B with STEER on DAPO-Math-17k, on 64 TPU v5p chips. Not run here: compiled only.

Command:   launch/queued_resource.sh --env launch/env.sh run        with CONFIG=configs/qwen25_math_7b.py
           ACCELERATOR_TYPE=v5p-128 (64 chips), TPU_WORKERS=16
Check:     entjax compile configs/qwen25_math_7b.py --topology v5p:4x4x4      (figures: docs/scale.md)
           entjax compile configs/qwen25_math_7b.py --topology v5e:16x16 --mesh replica:2,fsdp:32,tensor:4
Memory:    11.6 GB for the update, 27.9 GB while the sampler gets its weights, of 95 GB a v5p chip (compiled)
Needs:     models/Qwen2.5-Math-7B, data/dapo_math.jsonl and data/math500.jsonl as in qwen25_math_1_5b.py.
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
        model="models/Qwen2.5-Math-7B",
        model_options={"dtype": "bfloat16", "scan_layers": True, "remat": "full"},
        recipe="steer",
        steps=500,
        prompts=128,
        samples=8,
        max_new_tokens=3072,
        minibatches=4,
        microbatches=4,
        lr=1e-6,
        lr_warmup=10,
        mesh={"replica": -1, "fsdp": 32},  # 64 pieces of 56 rows would be gathered at twice the bytes
        sampler_sharding=ShardingRules().without("fsdp"),
        eval_every=20,
        eval_prompts=500,
        eval_samples=4,
        eval_k=(1, 4),
        save_every=10,
    )
