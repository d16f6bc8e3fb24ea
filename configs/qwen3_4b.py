"""Qwen3-4B with an entropy bonus under PI control on MATH, on 16 TPU v6e chips. Not run here: compiled only.

Command:   launch/queued_resource.sh --env launch/env.sh run        with CONFIG=configs/qwen3_4b.py
           ACCELERATOR_TYPE=v6e-16, TPU_WORKERS=4
Check:     entjax compile configs/qwen3_4b.py --topology v6e:4x4      (figures: docs/scale.md)
Memory:    16.1 GB for the update, 20.4 GB while the sampler gets its weights, of 32 GB a v6e chip (compiled)
Needs:     models/Qwen3-4B (a Hugging Face folder) and, with one object a line,
           data/math_train.jsonl: {"problem": ..., "solution": ...}; data/math500.jsonl: {"prompt": ..., "answer": ...}.
Expect:    nothing is claimed; no TPU was at hand.
"""

import entjax as ej
from entjax.sharding import ShardingRules


def get_config():
    return ej.Config(
        task=ej.tasks.math_file(
            "data/math_train.jsonl", "Fetch the MATH training set.", prompt="problem", answer="solution"
        ),
        eval_task=ej.tasks.math_file(
            "data/math500.jsonl", "Convert MATH-500 to objects with prompt and answer."
        ),
        model="models/Qwen3-4B",
        model_options={"dtype": "bfloat16", "scan_layers": True, "remat": "full"},
        recipe="entropy_pi",
        steps=500,
        prompts=128,
        samples=8,
        max_new_tokens=4096,
        minibatches=2,
        microbatches=32,
        lr=1e-6,
        lr_warmup=10,
        mesh={"fsdp": -1},
        sampler_sharding=ShardingRules().without("fsdp"),
        sampler_rows=128,  # 147 kB of cache a token, and decoding needs room for two of them
        eval_every=20,
        eval_prompts=500,
        eval_samples=4,
        eval_k=(1, 4),
        save_every=10,
    )
