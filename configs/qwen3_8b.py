"""Qwen3-8B with KL-Cov on DAPO-Math-17k, on 32 TPU v5p chips. Not run here: compiled only.

Command:   launch/queued_resource.sh --env launch/env.sh run        with CONFIG=configs/qwen3_8b.py
           ACCELERATOR_TYPE=v5p-64 (32 chips), TPU_WORKERS=8
Check:     entjax compile configs/qwen3_8b.py --topology v5p:4x4x2      (figures: docs/scale.md)
Memory:    17.0 GB for the update, 54.0 GB while the sampler gets its weights, of 95 GB a v5p chip (compiled)
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
        model_options={"dtype": "bfloat16", "scan_layers": True, "remat": "full"},
        recipe="kl_cov",
        steps=500,
        prompts=128,
        samples=8,
        max_new_tokens=4096,
        minibatches=2,
        microbatches=16,
        lr=1e-6,
        lr_warmup=10,
        mesh={"fsdp": -1},
        sampler_sharding=ShardingRules().without("fsdp"),
        eval_every=20,
        eval_prompts=500,
        eval_samples=4,
        eval_k=(1, 4),
        save_every=10,
    )
