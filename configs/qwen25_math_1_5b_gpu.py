"""Qwen2.5-Math-1.5B with STEER on GSM8K, on one machine with 8 H100. Not run here, and not compiled for this machine.

Command:   launch/slurm_gpu.sbatch --env launch/env.sh run        with CONFIG=configs/qwen25_math_1_5b_gpu.py,
           NODES=1, GPUS_PER_NODE=8
Memory:    weights, moments and gradients in float32 are 16 bytes x 1.54 billion / 8 = 3.1 GB a GPU, the sampler's copy in
           bfloat16 3.1 GB, its cache 28.7 kB a token (128 rows of 1536 tokens: 5.6 GB), the logits of a chunk 2.5 GB.
Needs:     models/Qwen2.5-Math-1.5B (a Hugging Face folder), data/gsm8k_train.jsonl and data/gsm8k_test.jsonl with one
           object {"question": ..., "answer": ...} a line.
Expect:    nothing is claimed; no such machine was at hand.
"""

import entjax as ej
from entjax.sharding import ShardingRules


def get_config():
    return ej.Config(
        task=ej.tasks.math_file("data/gsm8k_train.jsonl", "Fetch GSM8K.", prompt="question", answer="answer"),
        eval_task=ej.tasks.math_file(
            "data/gsm8k_test.jsonl", "Fetch GSM8K.", prompt="question", answer="answer"
        ),
        model="models/Qwen2.5-Math-1.5B",
        model_options={"dtype": "bfloat16", "scan_layers": True, "remat": "full"},
        recipe="steer",
        steps=500,
        prompts=128,
        samples=8,
        max_new_tokens=1024,
        minibatches=4,
        microbatches=8,
        lr=1e-6,
        lr_warmup=10,
        mesh={"fsdp": -1},
        sampler_sharding=ShardingRules().without(
            "fsdp"
        ),  # 3 GB in bfloat16: whole on every GPU, nothing gathered per token
        eval_every=20,
        eval_prompts=1319,
        eval_samples=4,
        eval_k=(1, 4),
        save_every=10,
    )
