"""Adapters: the model they start from, their gradients by the chain rule, what is trained, and the model they are merged into."""

import contextlib
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import entjax as ej
from entjax.checkpoint import CheckpointFault, Checkpoints
from entjax.cli import main
from entjax.log import read_lines
from entjax.models import DecoderConfig, load_hf, save_adapter, save_hf
from entjax.models.lora import INPUT, MATRICES, OUTPUT, split, together
from entjax.setup import build
from entjax.sft import make_text_step, nll
from entjax.train import train
from tests import tiny
from tests.models.families import FAMILIES, tokens_of, write_checkpoint
from tests.records import untimed

RAW = FAMILIES["qwen3"]
TOKENS = tokens_of(RAW)


def logits_of(model):
    return model(TOKENS) @ model.head()


def moved(model, seed=1):
    """The same model with adapters that do something."""
    params = nnx.state(model, nnx.Param)
    adapters, frozen = split(params)
    leaves, shape = jax.tree.flatten(adapters)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    drawn = [0.1 * jax.random.normal(key, leaf.shape, leaf.dtype) for key, leaf in zip(keys, leaves)]
    nnx.update(model, together(jax.tree.unflatten(shape, drawn), frozen))
    return model


def layer(params, index, scan):
    """The weights of one layer by name."""
    pure = nnx.to_pure_dict(params)["layers"]
    return {name: x[index] for name, x in pure.items()} if scan else pure[index]


@pytest.mark.parametrize("scan", [False, True])
def test_a_checkpoint_starts_as_it_is(scan, tmp_path):
    folder = write_checkpoint(tmp_path, RAW)
    plain, adapted = load_hf(folder, scan_layers=scan), load_hf(folder, scan_layers=scan, lora=3)
    np.testing.assert_array_equal(logits_of(adapted), logits_of(plain))
    again, other = (load_hf(folder, scan_layers=scan, lora=3, seed=seed) for seed in (0, 1))
    jax.tree.map(np.testing.assert_array_equal, nnx.state(again), nnx.state(adapted))
    inner = lambda model: layer(nnx.state(model, nnx.Param), 0, scan)["gate" + INPUT]
    assert not np.array_equal(inner(other), inner(adapted))
    first = layer(nnx.state(adapted, nnx.Param), 0, scan)
    second = layer(nnx.state(adapted, nnx.Param), 1, scan)
    assert not np.array_equal(first["gate" + INPUT], second["gate" + INPUT])
    assert np.std(first["gate" + INPUT]) == pytest.approx((3 * RAW["hidden_size"]) ** -0.5, rel=0.3)
    new = ej.models.Decoder(adapted.config, rngs=nnx.Rngs(0))
    like = layer(nnx.state(new, nnx.Param), 0, scan)
    assert np.std(like["gate" + INPUT]) == pytest.approx((3 * RAW["hidden_size"]) ** -0.5, rel=0.3)
    assert jax.tree.map(jnp.shape, first) == jax.tree.map(jnp.shape, like)


@pytest.mark.parametrize("scan", [False, True])
def test_gradients_follow_from_those_of_the_merged_matrices(scan, tmp_path):
    """W' = W + s A B:  dA = s dW' B^T,  dB = s A^T dW'."""
    adapted = moved(load_hf(write_checkpoint(tmp_path / "in", RAW), scan_layers=scan, lora=3, lora_alpha=6.0))
    save_hf(tmp_path / "merged", adapted)
    merged = load_hf(tmp_path / "merged", scan_layers=scan)
    np.testing.assert_allclose(logits_of(merged), logits_of(adapted), atol=1e-5)
    weight = jax.random.normal(jax.random.key(0), logits_of(merged).shape)

    def gradient(model):
        graphdef, params = nnx.split(model)
        return jax.grad(lambda params: jnp.sum(weight * logits_of(nnx.merge(graphdef, params))))(params)

    ours, theirs = gradient(adapted), gradient(merged)
    for index in range(RAW["num_hidden_layers"]):
        g, full = layer(ours, index, scan), layer(theirs, index, scan)
        weights = layer(nnx.state(adapted, nnx.Param), index, scan)
        for name in MATRICES:
            A, B, dW = (
                np.asarray(x, np.float64) for x in (weights[name + INPUT], weights[name + OUTPUT], full[name])
            )
            rank = A.shape[-1]
            A, B = A.reshape(-1, rank), B.reshape(rank, -1)
            dW = dW.reshape(len(A), -1)
            for mine, theirs_ in ((g[name + INPUT], 2 * dW @ B.T), (g[name + OUTPUT], 2 * A.T @ dW)):
                assert np.abs(theirs_).max() > 1e-2
                np.testing.assert_allclose(
                    np.ravel(mine), theirs_.ravel(), rtol=1e-3, atol=1e-4 * np.abs(theirs_).max()
                )


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_is_merged(name, tmp_path):
    scan = len(name) % 2 == 0
    adapted = moved(load_hf(write_checkpoint(tmp_path / "in", FAMILIES[name]), scan_layers=scan, lora=2))
    save_hf(tmp_path / "out", adapted)
    tokens = tokens_of(FAMILIES[name])
    logits = lambda model: np.asarray(model(tokens) @ model.head())
    assert np.abs(logits(adapted) - logits(load_hf(tmp_path / "in", lora=2))).max() > 1e-2
    np.testing.assert_allclose(logits(load_hf(tmp_path / "out")), logits(adapted), atol=1e-4)


def test_what_is_written_opens_in_transformers_with_the_same_logits(tmp_path):
    pytest.importorskip("torch")
    from tests.models.make_stored import logits_of_transformers

    adapted = moved(load_hf(write_checkpoint(tmp_path / "in", RAW), lora=2))
    save_hf(tmp_path / "out", adapted)
    theirs = logits_of_transformers(tmp_path / "out", TOKENS)
    assert np.abs(theirs - np.asarray(logits_of(adapted))).max() < 2e-4


CONFIG = DecoderConfig(vocab=19, width=16, layers=2, heads=2, kv_heads=1, head_dim=8, mlp=24, context=32)


def test_a_step_moves_the_adapters_alone_and_keeps_moments_for_them_alone():
    model = ej.models.Decoder(CONFIG.replace(lora=2), rngs=nnx.Rngs(0))
    objective, optimizer = ej.recipes.grpo_kl(), optax.adamw(1e-2)
    state = ej.init_train_state(model, objective, optimizer, jax.random.key(0))
    count = lambda tree: sum(x.size for x in jax.tree.leaves(tree))
    trained, frozen = split(state.params)
    assert count(trained) == 2 * 2 * (2 * (16 + 16) + 2 * (16 + 8) + 3 * (16 + 24))
    assert count(state.opt_state) == 2 * count(trained) + 1
    assert count(state.reference) == count(trained)
    before = jax.tree.map(np.asarray, (trained, frozen))
    rollout = ej.make_score(model, objective)(state, tiny.rollout(vocab=19))
    step = ej.make_train_step(model, objective, optimizer)
    for _ in range(2):
        state, metrics = step(state, rollout)
    after = split(state.params)
    jax.tree.map(np.testing.assert_array_equal, after[1], before[1])
    assert all(
        not np.array_equal(a, b) for a, b in zip(jax.tree.leaves(after[0]), jax.tree.leaves(before[0]))
    )
    # The reference policy is the frozen model, whatever the adapters have learnt.
    again = ej.make_score(model, objective)(state, rollout)
    np.testing.assert_allclose(again.extra["ref_logp"], rollout.extra["ref_logp"], atol=1e-6)
    assert float(metrics["grad_norm"]) > 0


def test_frozen_matrices_are_kept_in_the_compute_type_and_compute_the_same():
    wide = ej.models.Decoder(CONFIG.replace(dtype="bfloat16"), rngs=nnx.Rngs(0))
    slim = ej.models.Decoder(CONFIG.replace(dtype="bfloat16", lora=2), rngs=nnx.Rngs(0))
    kept = lambda tree: {x.dtype.name for x in jax.tree.leaves(tree) if x.ndim > 1}
    adapters, frozen = split(nnx.state(slim, nnx.Param))
    assert kept(frozen) == {"bfloat16"} and kept(adapters) == {"float32"}
    tokens = np.arange(19)[None]
    np.testing.assert_array_equal(slim(tokens), wide(tokens))


def test_the_gradient_of_the_mean_entropy_is_that_of_what_is_trained():
    from entjax import masked, vocab
    from entjax.analysis.prediction import SHARED, make_probe
    from entjax.passes import policy_features

    model = moved(ej.models.Decoder(CONFIG.replace(lora=2), rngs=nnx.Rngs(0)))
    graphdef, params = nnx.split(model)
    rollout, (adapters, frozen) = tiny.rollout(vocab=19), split(params)
    advantage = jax.random.normal(jax.random.key(0), rollout.tokens.shape)

    def mean(name, scale):
        def of(adapters):
            wanted = {"entropy": vocab.entropy, "logp": vocab.logp}
            found = policy_features(graphdef, together(adapters, frozen), None, rollout, wanted, 64)
            return masked.mean(scale * found[name], rollout.mask)

        return jax.grad(of)(adapters)

    expected = optax.tree.vdot(mean("entropy", 1.0), mean("logp", advantage))
    found = make_probe(model, 64)[1](params, params, rollout, advantage)
    assert float(found[SHARED]) == pytest.approx(float(expected), rel=1e-4)


def test_supervised_steps_train_the_adapters():
    model = ej.models.Decoder(CONFIG.replace(lora=4), rngs=nnx.Rngs(0))
    params, optimizer = nnx.state(model, nnx.Param), optax.adam(3e-2)
    frozen = jax.tree.map(np.asarray, split(params)[1])
    step = make_text_step(model, nll(), optimizer)
    opt_state, losses = optimizer.init(split(params)[0]), []
    tokens = np.random.default_rng(0).integers(0, 19, (4, 12)).astype(np.int32)
    for _ in range(60):
        params, opt_state, loss = step(params, opt_state, tokens, np.ones((4, 12), bool))
        losses.append(float(loss))
    assert losses[-1] < losses[0] - 0.05  # what a head of small numbers can say
    jax.tree.map(np.testing.assert_array_equal, split(params)[1], frozen)


def test_a_run_resumes_exactly_and_exports_one_model(tmp_path):
    def config(steps):
        return ej.Config(
            task=ej.tasks.countdown(numbers=2), model=CONFIG.replace(lora=2, context=64), recipe="grpo_kl", steps=steps,
            prompts=4, samples=4, minibatches=2, max_new_tokens=9, lr=1e-2, sft_steps=4, sft_batch=16, eval_every=0,
            eval_prompts=4, eval_samples=2, eval_k=(1,), save_every=1,
        )  # fmt: skip

    whole = train(config(3), tmp_path / "whole")
    train(config(1), tmp_path / "run")
    names = names_in(tmp_path / "run" / "checkpoints", 1)  # no folder holds what was drawn
    assert {"params/layers/0/gate", "params/layers/0/gate_lora_in"} <= names
    again = train(config(3), tmp_path / "run", resume=True)
    assert again["after"] == whole["after"]
    steps = [untimed(read_lines(tmp_path / name / "metrics.jsonl")) for name in ("whole", "run")]
    assert [r["loss"] for r in steps[0] if "loss" in r] == [r["loss"] for r in steps[1] if "loss" in r]


def names_in(folder, step):
    """Of the arrays of a checkpoint."""
    with contextlib.closing(Checkpoints(folder)) as checkpoints:
        return set(checkpoints._shapes(step))


def run_of(folder, steps=2):
    """A short run of adapters beside a folder's weights in eight bits."""
    return ej.Config(
        task=ej.tasks.countdown(numbers=2), model=str(folder), model_options={"lora": 2, "int8": True}, steps=steps, prompts=4,
        samples=4, max_new_tokens=9, lr=1e-2, sft_steps=4, sft_batch=16, eval_every=0, eval_prompts=4, eval_samples=2,
        eval_k=(1,), save_every=1,
    )  # fmt: skip


def test_a_checkpoint_holds_the_adapters_and_is_read_beside_the_same_weights_only(tmp_path, capsys):
    base = tmp_path / "base"
    save_hf(base, ej.models.Decoder(CONFIG.replace(context=64), rngs=nnx.Rngs(0)))
    whole = train(run_of(base, 3), tmp_path / "whole")
    train(run_of(base, 2), tmp_path / "run")
    names = {name for name in names_in(tmp_path / "run" / "checkpoints", 2) if name.startswith("params/")}
    assert names and all(name.endswith((INPUT, OUTPUT)) for name in names)
    again = train(run_of(base, 3), tmp_path / "run", resume=True)
    assert again["after"] == whole["after"]

    export, adapter = tmp_path / "export", tmp_path / "adapter"
    (tmp_path / "run" / "config.py").write_text(
        "import entjax as ej\n"
        f"get_config = lambda: ej.Config(task=ej.tasks.countdown(numbers=2), model={str(base)!r},\n"
        "    model_options={'lora': 2, 'int8': True}, steps=3, prompts=4, samples=4, max_new_tokens=9, sft_steps=4,\n"
        "    eval_prompts=4, eval_samples=2, eval_k=(1,))\n"
    )
    assert main(["export", str(tmp_path / "run"), str(export)]) == 0
    assert main(["export", str(tmp_path / "run"), str(adapter), "--adapter"]) == 0
    tokens = np.arange(19)[None]
    merged, beside = load_hf(export), load_hf(base, adapter=adapter, int8=True)
    assert np.abs(merged(tokens) - load_hf(base)(tokens)).max() > 1e-3
    np.testing.assert_allclose(merged(tokens), beside(tokens), atol=1e-5)

    save_hf(tmp_path / "other", ej.models.Decoder(CONFIG.replace(context=64), rngs=nnx.Rngs(1)))
    for file in base.iterdir():
        file.write_bytes((tmp_path / "other" / file.name).read_bytes())
    with pytest.raises(
        CheckpointFault, match=r"adapters of another model: .* not the weights that the run began"
    ):
        train(run_of(base, 4), tmp_path / "run", resume=True)


def test_a_run_goes_on_from_an_adapter(tmp_path):
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    save_hf(base, ej.models.Decoder(CONFIG.replace(context=64), rngs=nnx.Rngs(0)))
    model = moved(load_hf(base, lora=3))
    save_adapter(adapter, model)
    config = dataclasses.replace(run_of(base), model_options={"adapter": str(adapter)}, recipe="grpo_kl")
    with contextlib.closing(build(config)) as parts:
        assert parts.model.config.lora == 3
        jax.tree.map(np.testing.assert_array_equal, nnx.state(parts.model), nnx.state(model))
        state = parts.fresh_state(nnx.state(parts.model))
        jax.tree.map(np.testing.assert_array_equal, state.reference, split(nnx.state(model))[0])


@pytest.mark.parametrize(("change", "message"), [({"lora": -1}, "got -1"), ({"lora": 2.0}, "got 2.0"),
                                                 ({"lora": 2, "lora_alpha": 0}, "lora_alpha")])  # fmt: skip
def test_ranks_that_are_none_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        CONFIG.replace(**change)
