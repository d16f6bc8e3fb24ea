"""Eleven defects found in another JAX trainer, each as a test of ours: what happened there must not happen here."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import entjax as ej
from entjax import setup, vocab
from entjax.checkpoint import Checkpoints
from entjax.log import read_lines
from entjax.rollouts import to_rollout
from entjax.step import make_score
from entjax.train import train
from tests import tiny
from tests.test_package import ROOT


def config(**changes):
    base = {
        "task": ej.tasks.countdown(numbers=2)._replace(verify=lambda example, text: float("1" in text)),
        "model": ej.models.tiny(vocab=20, width=16, layers=1, heads=2, context=64),
        "steps": 3, "prompts": 2, "samples": 4, "minibatches": 2, "max_new_tokens": 9, "lr": 1e-3, "chunk": 64,
        "eval_every": 0, "eval_prompts": 2, "eval_samples": 2, "eval_k": (1,), "save_every": 2, "log_samples": 8,
    }  # fmt: skip
    return ej.Config(**{**base, **changes})


def one_step(objective, state, rollout, **how):
    step = ej.make_train_step(tiny.model(), objective, optax.sgd(0.1), **how)
    return step(jax.tree.map(jnp.copy, state), rollout)


def fresh(objective):
    return ej.init_train_state(tiny.model(), objective, optax.sgd(0.1), jax.random.key(0))


def difference(a, b):
    return max(jax.tree.leaves(jax.tree.map(lambda x, y: float(jnp.abs(x - y).max()), a.params, b.params)))


def harvest_of(c, step=0):
    parts = setup.build(c)
    state = parts.fresh_state()
    harvest = parts.strategy(parts.tools(state.params, step), parts.stream.at(0), step, {})
    parts.close()
    return parts, state, harvest


def test_1_the_same_prompts_twice_are_sampled_anew_and_a_group_holds_no_copies():
    """There the seed was a constant, and a group cut into batches of the sampler was the same few samples repeated."""
    _, _, first = harvest_of(config())
    _, _, later = harvest_of(config(), step=1)
    parts, _, cut = harvest_of(config(sampler_rows=2))
    assert parts.config.sampler_rows == 2
    for group in (0, 1):
        rows = first.completions.tokens[first.completions.group == group]
        assert len({row.tobytes() for row in rows}) == 4
    assert first.texts != later.texts
    assert cut.texts == first.texts


def test_2_the_trainer_scores_at_the_temperature_of_the_sampler():
    """There log-probs of equal weights differed by up to 8.32 nats at temperature 0.5."""
    parts, state, harvest = harvest_of(config(temperature=0.5))
    rollout = to_rollout(harvest, rows=8, length=16, temperature=0.5)
    scored = parts.score(state, rollout)
    gap = np.abs(np.asarray(scored.old_logp - rollout.logp))[np.asarray(rollout.mask)]
    assert gap.max() < 1e-5
    hot = parts.score(state, rollout.replace(temperature=jnp.float32(1.0)))
    assert np.abs(np.asarray(hot.old_logp - rollout.logp))[np.asarray(rollout.mask)].max() > 0.01


def test_3_a_coefficient_moves_inside_the_compiled_step():
    """There a coefficient that was raised every step stayed what it was when the loss was traced."""
    rollout = tiny.rollout()
    rising = ej.Objective(per_step=ej.regularizers.entropy(coef=ej.control.linear(0.0, 1.0, 1)))
    step = ej.make_train_step(tiny.model(), rising, optax.sgd(0.1))
    state, seen = fresh(rising), []
    for _ in range(2):
        before = jax.tree.map(jnp.copy, state)
        state, metrics = step(state, rollout)
        seen.append(float(metrics["entropy/coef"]))
    assert seen == [0.0, 1.0] and step._cache_size() == 1
    constant = ej.Objective(per_step=ej.regularizers.entropy(coef=1.0))
    expected, _ = one_step(constant, before.replace(signal_state=constant.init()), rollout)
    assert difference(state, expected) < 1e-6
    without = ej.Objective()
    plain, _ = one_step(without, before.replace(signal_state=without.init()), rollout)
    assert difference(state, plain) > 1e-3


@pytest.fixture(scope="module")
def resumed(tmp_path_factory):
    """Three steps of two minibatches with a checkpoint every second, then a fourth after a restart."""
    workdir = tmp_path_factory.mktemp("runs") / "run"
    train(config(), workdir)
    parts = setup.build(config())
    checkpoints = Checkpoints(workdir / "checkpoints")
    last = checkpoints.steps()[-1]
    found = last, checkpoints.host(last), checkpoints.restore(last, parts.like())
    checkpoints.close()
    train(config(steps=4), workdir, resume=True)
    return workdir, parts, *found


def test_4_resume_goes_on_with_the_next_prompts(resumed):
    """There two optimizer steps per rollout made a resumed run skip batches that were never seen."""
    workdir, parts, _, host, _ = resumed
    assert host["stream"]["position"] == 3 * 2
    prompts = {}
    for row in read_lines(workdir / "samples.jsonl"):
        prompts.setdefault(row["step"], []).append(row["prompt"])
    for step in (1, 2, 3, 4):
        expected = [e.prompt for e in parts.stream.at(2 * (step - 1)) for _ in range(4)]
        assert sorted(prompts[step]) == sorted(expected)


def test_5_the_last_checkpoint_knows_its_step(resumed):
    """There a checkpoint between two save steps came back as step 0."""
    _, _, last, host, state = resumed
    assert last == host["step"] == int(state.step) == 3


def test_6_no_reference_policy_where_no_part_looks_at_one():
    """There the reference model ran although beta was None."""
    for objective in (ej.recipes.dapo(), ej.recipes.grpo()):
        assert fresh(objective).reference is None
        scored = make_score(tiny.model(), objective)(fresh(objective), tiny.rollout())
        assert "ref_logp" not in scored.extra
    assert fresh(ej.recipes.grpo_kl()).reference is not None


def test_7_dynamic_sampling_draws_again():
    """There the field was never read."""
    never = config().task._replace(verify=lambda example, text: 0.0)
    drawn = []
    for rounds in (0, 2):
        parts = setup.build(config(task=never, eval_task=config().task, dynamic_sampling=rounds))
        parts.strategy(parts.tools(parts.fresh_state().params, 0), parts.stream.next(), 0, {})
        parts.close()
        drawn.append(parts.stream.state()["position"])
    assert drawn == [2, 2 + 2 * 2]  # both groups, twice


def test_8_the_overlong_penalty_counts_tokens():
    """There it counted characters: a completion of 30 characters at a limit of 20 tokens cost 2."""
    rollout = tiny.rollout(batch=4, length=40, groups=(4,))
    lengths = jnp.asarray([10, 18, 20, 30])
    index = jnp.arange(40)[None]
    rollout = rollout.replace(mask=(index >= 2) & (index < 2 + lengths[:, None]), reward=jnp.zeros(4))
    rule = ej.rewards.overlong(20, buffer=4)
    signal, _ = rule.update(ej.Signal.start(rollout), (), ej.Context(rollout))
    np.testing.assert_allclose(signal.reward, [0.0, -0.5, -1.0, -1.0])


def test_9_entropy_is_finite_with_forbidden_tokens_and_wide_in_bfloat16():
    """There -inf logits made the entropy and its gradient NaN, and half precision made it wrong."""
    logits = np.random.default_rng(0).normal(size=(1, 3, 8)) * 3
    logits[..., 5:] = -np.inf
    wide = np.exp(logits - logits[..., :5].max(-1, keepdims=True))
    p = wide / wide.sum(-1, keepdims=True)
    expected = -np.sum(p[..., :5] * np.log(p[..., :5]), -1)

    def entropy(x):
        hidden, head = x, jnp.eye(8, dtype=x.dtype)
        wanted = {"entropy": vocab.entropy}
        return vocab.features(hidden, head, jnp.zeros((1, 3), jnp.int32), wanted, align=lambda h: h)[
            "entropy"
        ]

    value, slope = jax.value_and_grad(lambda x: entropy(x).sum())(
        jnp.asarray(np.maximum(logits, -1e30), jnp.float32)
    )
    np.testing.assert_allclose(value, expected.sum(), rtol=1e-5)
    assert np.isfinite(slope).all()
    half = entropy(jnp.asarray(np.maximum(logits, -1e30), jnp.bfloat16))
    assert half.dtype == jnp.float32
    rounded = np.asarray(
        jnp.asarray(logits[..., :5], jnp.bfloat16), np.float64
    )  # the input's own rounding is not ours
    q = np.exp(rounded) / np.exp(rounded).sum(-1, keepdims=True)
    np.testing.assert_allclose(half, -np.sum(q * np.log(q), -1), rtol=1e-5)


def test_10_tokens_weigh_the_same_in_every_microbatch():
    """There the mean was taken in every microbatch: a token of a short one weighed nine times that of a long one."""
    rollout = tiny.rollout(batch=8, length=41)
    short = jnp.arange(41)[None] < jnp.where(jnp.arange(8) % 4 == 0, 5, 41)[:, None]
    rollout = rollout.replace(mask=rollout.mask & short)
    objective = ej.Objective(ej.advantages.group_normalize(), ej.averages.token_mean())
    whole, _ = one_step(objective, fresh(objective), rollout)
    cut, _ = one_step(objective, fresh(objective), rollout, microbatches=4)
    assert difference(whole, fresh(objective)) > 1e-3
    assert difference(whole, cut) < 1e-6


def test_11_the_wheel_takes_the_configs_along(monkeypatch):
    """There the command line needed a YAML file that the wheel lacked. (tests/test_package.py builds the wheel and looks.)"""
    from setuptools.dist import Distribution

    monkeypatch.chdir(ROOT)
    distribution = Distribution()
    distribution.parse_config_files([str(ROOT / "setup.cfg")])
    build = distribution.get_command_obj("build_py")
    build.ensure_finalized()
    build.manifest_files = {}  # what git knows is the other way into a wheel; the patterns must do without
    taken = {
        f"entjax.configs/{Path(p).relative_to('configs')}"
        for p in build.find_data_files("entjax.configs", "configs")
    }
    shipped = {f"entjax.configs/{p.relative_to(ROOT / 'configs')}" for p in (ROOT / "configs").rglob("*")
               if p.is_file() and "__pycache__" not in p.parts}  # fmt: skip
    assert len(shipped) > 5 and shipped <= taken


def test_the_state_that_a_checkpoint_holds_is_json_and_arrays(resumed):
    """No object of ours is stored, so nothing has to be unpickled."""
    workdir = resumed[0]
    leaves = jax.tree.leaves(nnx.to_pure_dict(nnx.state(tiny.model())))
    assert all(isinstance(x, jax.Array) for x in leaves)
    json.dumps(resumed[3])
    assert not [
        p for p in workdir.rglob("*") if p.is_file() and p.read_bytes()[:2] in (b"\x80\x04", b"\x80\x05")
    ]
