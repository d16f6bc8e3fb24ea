"""Qwen2.5-Math-1.5B with STEER on DAPO-Math-17k, on 16 TPU v5e chips. Not run here: compiled only.

Command:   launch/queued_resource.sh --env launch/env.sh run        with CONFIG=configs/qwen25_math_1_5b.py
           ACCELERATOR_TYPE=v5litepod-16, TPU_WORKERS=4
Check:     entjax compile configs/qwen25_math_1_5b.py --topology v5e:4x4      (figures: docs/scale.md)
Memory:    6.1 GB for the update, 13.0 GB while sampling, of 16 GB a chip (compiled)
Needs:     models/Qwen2.5-Math-1.5B (a Hugging Face folder), data/dapo_math.jsonl and data/math500.jsonl with one object
           {"prompt": ..., "answer": ...} a line.
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
        model="models/Qwen2.5-Math-1.5B",
        model_options={"dtype": "bfloat16", "scan_layers": True, "remat": "full"},
        recipe="steer",
        steps=500,
        prompts=128,
        samples=8,
        max_new_tokens=3072,
        minibatches=4,
        microbatches=16,
        lr=1e-6,
        lr_warmup=10,
        mesh={"fsdp": -1},
        sampler_sharding=ShardingRules().without(
            "fsdp"
        ),  # 3 GB in bfloat16: whole on every chip, nothing gathered per token
        eval_every=20,
        eval_prompts=500,
        eval_samples=4,
        eval_k=(1, 4),
        save_every=10,
    )
