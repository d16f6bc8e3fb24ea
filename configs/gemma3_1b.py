"""Gemma 3 1B (text) with the entropy budget on DAPO-Math-17k, on 16 TPU v5e chips. Not run here: compiled only.

Command:   launch/queued_resource.sh --env launch/env.sh run        with CONFIG=configs/gemma3_1b.py
           ACCELERATOR_TYPE=v5litepod-16, TPU_WORKERS=4
Check:     entjax compile configs/gemma3_1b.py --topology v5e:4x4      (figures: docs/scale.md)
Memory:    10.0 GB for the update, 7.3 GB while sampling, of 16 GB a chip (compiled)
Needs:     models/gemma-3-1b-it (a Hugging Face folder), data/dapo_math.jsonl and data/math500.jsonl with one object
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
        model="models/gemma-3-1b-it",
        model_options={"dtype": "bfloat16", "scan_layers": True, "remat": "full"},
        recipe="entropy_budget",
        recipe_options={"target": 0.3},
        steps=500,
        prompts=128,
        samples=8,
        max_new_tokens=2048,
        minibatches=4,
        microbatches=16,
        lr=1e-6,
        lr_warmup=10,
        mesh={"replica": 2, "fsdp": -1},  # 1152 columns in 8 pieces of 144; 72 would not be a multiple of 16
        sampler_sharding=ShardingRules().without(
            "fsdp"
        ),  # 2 GB in bfloat16: whole on every chip, nothing gathered per token
        eval_every=20,
        eval_prompts=500,
        eval_samples=4,
        eval_k=(1, 4),
        save_every=10,
    )
