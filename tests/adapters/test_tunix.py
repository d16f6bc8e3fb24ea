"""One real GRPO step of google-tunix with an entjax objective, against entjax's own step on the batch that Tunix sampled.

python -m venv tunix && tunix/bin/pip install google-tunix==0.1.7 jax==0.10.2 pytest beartype
PYTHONPATH=. tunix/bin/pytest -o addopts= -m slow tests/adapters/test_tunix.py
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import Mesh
from safetensors.numpy import load_file, save_file

import entjax as ej
from entjax.models import Decoder, DecoderConfig, load_hf, save_hf

pytest.importorskip("tunix", reason="needs google-tunix 0.1.7, in an environment of its own")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

PAD, EOS, VOCAB, SAMPLES, NEW, PROMPT, RATE = 0, 1, 64, 4, 10, 6, 0.02
PROMPTS = ["w5 w9 w20 w33 w4 w8", "w7 w7", "w40 w3 w50 w12"]  # of different lengths: Tunix pads on the left
OBJECTIVES = {
    "grpo": ej.recipes.grpo(),
    "steer": ej.recipes.steer(),  # reads the current policy
    "entropy_bonus": ej.recipes.entropy_bonus(0.05),  # a term with its own gradient
    "shaped": ej.Objective(ej.chain(ej.advantages.group_normalize(), ej.advantages.entropy_bonus())),
    "grpo_kl": ej.recipes.grpo_kl(0.2),  # a reference policy
}


@pytest.fixture(autouse=True)
def as_tunix_was_written():
    """Tunix relies on implicit promotion, in threads of its own too, so that a context manager would not reach them."""
    strict = jax.config.jax_numpy_dtype_promotion  # pyright: ignore
    jax.config.update("jax_numpy_dtype_promotion", "standard")
    yield
    jax.config.update("jax_numpy_dtype_promotion", strict)


def tokenizer():
    """Token 17 is the word w17."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {{PAD: "<pad>", EOS: "<eos>"}.get(i, f"w{i}"): i for i in range(VOCAB)}
    inner = Tokenizer(models.WordLevel(words, unk_token="w2"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<eos>", pad_token="<pad>", padding_side="left"
    )


def reward(prompts, completions, **_):
    """The share of words below w32."""
    numbers = [[int(w[1:]) for w in text.split() if w[0] == "w"] for text in completions]
    return [sum(n < 32 for n in one) / max(len(one), 1) for one in numbers]


def checkpoint(folder, seed):
    config = DecoderConfig(
        vocab=VOCAB, width=32, layers=2, heads=4, kv_heads=2, head_dim=8, mlp=48, norm_eps=1e-5, context=64
    )
    model = Decoder(config, rngs=nnx.Rngs(seed))
    # larger weights, so that the policy is far from uniform and some completions end early
    nnx.update(model, jax.tree.map(lambda x: x * 3 if x.ndim > 1 else x, nnx.state(model, nnx.Param)))
    save_hf(folder, model)
    # One constant component of the residual stream, by which the pad token is never sampled (Tunix would take it for padding
    # and condition on it all the same) and the end token now and then.
    weights = load_file(folder / "model.safetensors")
    weights["model.embed_tokens.weight"][:, 0] = 20.0
    weights["lm_head.weight"][PAD, 0], weights["lm_head.weight"][EOS, 0] = -50.0, 0.5
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def in_tunix(folder, mesh):
    """The checkpoint as Tunix's own Llama."""
    from tunix.models.llama3 import model, params

    config = model.ModelConfig(
        num_layers=2, vocab_size=VOCAB, embed_dim=32, hidden_dim=48, num_heads=4, head_dim=8, num_kv_heads=2,
        rope_theta=10_000, norm_eps=1e-5, weight_tying=False,
    )  # fmt: skip
    with mesh:
        return params.create_model_from_safe_tensors(str(folder), config, mesh, dtype=jnp.float32)


def tunix_step(objective, actor, reference, mesh):
    """(the TrainExample, the rewards) of one optimizer step of GRPOLearner on `actor`, which is changed."""
    from tunix.rl import rl_cluster as rl
    from tunix.rl.grpo.grpo_learner import GRPOConfig, GRPOLearner
    from tunix.rl.rollout.base_rollout import RolloutConfig

    from entjax.adapters import tunix

    sampling = RolloutConfig(
        max_tokens_to_generate=NEW, max_prompt_length=PROMPT, kv_cache_size=NEW + PROMPT + 2, temperature=0.9,
        top_p=1.0, top_k=None, eos_tokens=[EOS],
    )  # fmt: skip
    training = rl.RLTrainingConfig(actor_optimizer=optax.sgd(RATE), eval_every_n_steps=100, max_steps=1)
    cluster = rl.RLCluster(
        actor=actor, reference=reference, tokenizer=tokenizer(),
        cluster_config=rl.ClusterConfig(
            role_to_mesh={rl.Role.ACTOR: mesh, rl.Role.REFERENCE: mesh, rl.Role.ROLLOUT: mesh},
            rollout_engine="vanilla", offload_to_cpu=False, training_config=training, rollout_config=sampling,
        ),
    )  # fmt: skip
    beta = 0.04 if reference is not None else 0.0
    learner = GRPOLearner(
        cluster, GRPOConfig(num_generations=SAMPLES, beta=beta, **tunix.register(objective)), reward
    )
    seen, make = [], learner._generate_and_compute_advantage

    def watched(*arguments, **options):
        seen.append(make(*arguments, **options))
        return seen[-1]

    learner._generate_and_compute_advantage = watched
    with mesh:
        learner.train([{"prompts": np.asarray(PROMPTS)}])
    (example,) = seen
    return example, cluster.actor_trainer.model


def own_rollout(example):
    """The same sequences as entjax writes them: the prompt's padding is gone, everything stands on the left."""
    prompts, completions = np.asarray(example.prompt_ids), np.asarray(example.completion_ids)
    rows = [np.concatenate([p[p != PAD], c[c != PAD]]) for p, c in zip(prompts, completions, strict=True)]
    length = PROMPT + NEW
    begin = np.array([(p != PAD).sum() for p in prompts])
    place, end = np.arange(length), np.array([len(row) for row in rows])
    zeros = jnp.zeros((len(rows), length), jnp.float32)
    return ej.Rollout(
        tokens=jnp.asarray([np.pad(row, (0, length - len(row))) for row in rows], jnp.int32),
        mask=jnp.asarray((place >= begin[:, None]) & (place < end[:, None])),
        logp=zeros, entropy=zeros, old_logp=None,
        reward=jnp.asarray(example.advantages, jnp.float32),
        group=jnp.arange(len(rows), dtype=jnp.int32) // SAMPLES,
        temperature=jnp.float32(0.9),
    )  # fmt: skip


def own_step(objective, folder, reference, rollout):
    model = load_hf(folder)
    state = ej.init_train_state(model, objective, optax.sgd(RATE), jax.random.key(0))
    if reference is not None:
        state = state.replace(reference=nnx.state(load_hf(reference), nnx.Param))
    scored = ej.make_score(model, objective)(state, rollout)
    scored = scored.replace(logp=scored.old_logp, entropy=scored.extra["entropy"])
    state, _ = ej.make_train_step(model, objective, optax.sgd(RATE))(state, scored)
    nnx.update(model, state.params)
    return model


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_step_of_tunix_moves_the_policy_as_the_own_step_does(name, tmp_path):
    objective = OBJECTIVES[name]
    mesh = Mesh(np.asarray(jax.devices()[:1]).reshape(1, 1), ("fsdp", "tp"))
    folder = checkpoint(tmp_path / "actor", 0)
    other = checkpoint(tmp_path / "reference", 1) if objective.needs_reference else None
    reference = None if other is None else in_tunix(other, mesh)
    example, tuned = tunix_step(objective, in_tunix(folder, mesh), reference, mesh)
    rollout = own_rollout(example)
    ends = np.asarray(example.completion_mask)
    assert (ends[:, :-1] >= ends[:, 1:]).all()  # padding stands at the end only
    assert len(set(np.asarray(rollout.reward).tolist())) > 2
    assert not np.asarray(example.completion_mask).all()  # some completions ended early

    # Changes are compared, not logits: the two forward passes round differently. The pad token has no probability.
    positions = jnp.broadcast_to(jnp.arange(rollout.tokens.shape[1]), rollout.tokens.shape)
    causal = jnp.broadcast_to(
        jnp.tri(positions.shape[1], dtype=bool), (len(positions), *[positions.shape[1]] * 2)
    )
    seen = lambda logits: np.asarray(logits)[np.asarray(rollout.mask)][:, PAD + 1 :]
    ours = lambda model: seen(model(rollout.tokens) @ model.head())
    with mesh:
        theirs = lambda model: seen(model(rollout.tokens, positions, None, causal)[0])
        their_change = theirs(tuned) - theirs(in_tunix(folder, mesh))
    our_change = ours(own_step(objective, folder, other, rollout)) - ours(load_hf(folder))
    assert np.abs(our_change).max() > 0.02
    assert np.abs(our_change - their_change).max() < 0.01 * np.abs(our_change).max()


def test_what_tunix_cannot_give_is_refused():
    from types import SimpleNamespace

    from entjax.adapters import tunix

    with pytest.raises(ValueError, match="remember something from step to step"):
        tunix.register(ej.recipes.entropy_pi())
    packed = SimpleNamespace(segment_ids=jnp.ones((1, 8)))
    with pytest.raises(ValueError, match="max_seq_token_per_tpu"):
        tunix.rollout_of(packed, SimpleNamespace(num_generations=4))
