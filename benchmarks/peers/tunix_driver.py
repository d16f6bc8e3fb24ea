"""Tunix: GRPOLearner on the vanilla rollout engine (one optimizer step a batch, no reference model), or its sampler alone."""

import sys

import child
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from tunix.generate import sampler as samplers
from tunix.rl import rl_cluster as rl
from tunix.rl.grpo.grpo_learner import GRPOConfig, GRPOLearner
from tunix.rl.rollout.base_rollout import RolloutConfig

job, say, wait = child.start()
tokenizer = child.tokenizer(job["vocab"], job["eos"], job["pad"])
rows = len(job["prompts"]) * job["samples"]
length = len(job["prompts"][0])
mesh = Mesh(np.asarray(jax.devices()[:1]).reshape(1, 1), ("fsdp", "tp"))


def load():
    """The model of the weights' architecture."""
    c = job["config"]
    sizes = {
        "num_layers": c["num_hidden_layers"], "vocab_size": c["vocab_size"], "embed_dim": c["hidden_size"],
        "hidden_dim": c["intermediate_size"], "num_heads": c["num_attention_heads"], "head_dim": c["head_dim"],
        "num_kv_heads": c["num_key_value_heads"], "rope_theta": int(c["rope_theta"]), "norm_eps": c["rms_norm_eps"],
    }  # fmt: skip
    if c["model_type"] == "qwen2":
        from tunix.models.qwen2 import model, params

        config = model.ModelConfig(**sizes, use_tied_embedding=c["tie_word_embeddings"])
    else:
        from tunix.models.llama3 import model, params

        config = model.ModelConfig(**sizes, weight_tying=c["tie_word_embeddings"])
    with mesh:
        return params.create_model_from_safe_tensors(job["weights"], config, mesh, dtype=jnp.float32)


def sample(model):
    """The completions of the batch through Sampler."""
    cache = samplers.CacheConfig(
        cache_size=length + job["new"], num_layers=model.config.num_layers,
        num_kv_heads=model.config.num_kv_heads, head_dim=model.config.head_dim,
    )  # fmt: skip
    made = samplers.Sampler(model, tokenizer, cache)
    texts = [text for text in child.texts(job) for _ in range(job["samples"])]
    say(ready=True)
    while True:
        wait()
        with mesh:
            out = made(input_strings=texts, max_generation_steps=job["new"], max_prompt_length=length, temperature=1.0,
                       top_p=1.0, seed=0, eos_tokens=[job["eos"]])  # fmt: skip
        say(tokens=sum(len(tokens) for tokens in out.tokens))


def train(model):
    """Whole steps of GRPOLearner: the next batch is asked for when a step is over."""
    seen = {}
    rollout = RolloutConfig(
        max_tokens_to_generate=job["new"], max_prompt_length=length, kv_cache_size=length + job["new"], temperature=1.0,
        top_p=1.0, top_k=None, eos_tokens=[job["eos"]],
    )  # fmt: skip
    training = rl.RLTrainingConfig(
        actor_optimizer=optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(job["lr"])),
        eval_every_n_steps=10**6, max_steps=10**6,
    )  # fmt: skip
    cluster = rl.RLCluster(
        actor=model, tokenizer=tokenizer,
        cluster_config=rl.ClusterConfig(
            role_to_mesh={rl.Role.ACTOR: mesh, rl.Role.REFERENCE: mesh, rl.Role.ROLLOUT: mesh},
            rollout_engine="vanilla", offload_to_cpu=False, training_config=training, rollout_config=rollout,
        ),
    )  # fmt: skip
    algorithm = GRPOConfig(num_generations=job["samples"], num_iterations=1, beta=0.0, epsilon=0.2,
                           loss_agg_mode="token-mean")  # fmt: skip

    def reward(prompts, completions, **_):
        return child.rewards(completions, seen)

    def batches():
        from flax import nnx

        started = False
        while True:
            jax.block_until_ready(nnx.state(cluster.actor_trainer.model))
            say(**(seen if started else {"ready": True}))
            wait()
            started = True
            yield {"prompts": np.asarray(child.texts(job))}

    learner = GRPOLearner(cluster, algorithm, reward)
    with mesh:
        learner.train(batches())


sys.setrecursionlimit(10_000)
train(load()) if job["what"] == "grpo" else sample(load())
