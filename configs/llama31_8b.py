"""Llama-3.1-8B with Clip-Cov on GSM8K, on 32 TPU v6e chips. Not run here: compiled only.

Command:   launch/queued_resource.sh --env launch/env.sh run        with CONFIG=configs/llama31_8b.py
           ACCELERATOR_TYPE=v6e-32, TPU_WORKERS=8
Check:     entjax compile configs/llama31_8b.py --topology v6e:4x8      (figures: docs/scale.md)
Memory:    15.2 GB for the update, 12.3 GB while the sampler gets its weights, of 32 GB a v6e chip (compiled)
Needs:     models/Llama-3.1-8B (a Hugging Face folder) and, with one object a line,
           data/gsm8k_train.jsonl, data/gsm8k_test.jsonl: {"question": ..., "answer": ...}.
Expect:    nothing is claimed; no TPU was at hand.
"""

import entjax as ej
from entjax.sharding import ShardingRules


def get_config():
    return ej.Config(
        task=ej.tasks.math_file("data/gsm8k_train.jsonl", "Fetch GSM8K.", prompt="question", answer="answer"),
        eval_task=ej.tasks.math_file(
            "data/gsm8k_test.jsonl", "Fetch GSM8K.", prompt="question", answer="answer"
        ),
        model="models/Llama-3.1-8B",
        model_options={"dtype": "bfloat16", "scan_layers": True, "remat": "full"},
        recipe="clip_cov",
        steps=500,
        prompts=128,
        samples=8,
        max_new_tokens=1024,
        minibatches=2,
        microbatches=8,
        lr=1e-6,
        lr_warmup=10,
        mesh={"fsdp": -1, "tensor": 4},
        sampler_sharding=ShardingRules().without("fsdp"),
        sampler_rows=512,
        eval_every=20,
        eval_prompts=1319,
        eval_samples=4,
        eval_k=(1, 4),
        save_every=10,
    )
