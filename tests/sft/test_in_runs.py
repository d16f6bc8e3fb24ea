"""Distillation and supervised losses as a config asks for them: a student of another shape approaches its teacher."""

import jax
import numpy as np
import pytest
from flax import nnx

import entjax as ej
from entjax import setup, sft
from entjax.config import ConfigError
from entjax.log import read_lines
from entjax.models import Decoder, save_hf
from entjax.rollouts import groups, multi_turn, replay, silent, taught, tempered
from entjax.rollouts.harvest import to_rollout
from entjax.train import train


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """The folder of a wider and deeper model, sharp enough to have something to say."""
    folder = tmp_path_factory.mktemp("teacher")
    model = Decoder(ej.models.tiny(vocab=19, width=32, layers=2, heads=2, context=32), rngs=nnx.Rngs(7))
    model.embedding.set_value(model.embedding[...] * 4)
    save_hf(folder, model)
    return folder


def config(teacher, **changes):
    base = dict(  # noqa: C408
        task=ej.tasks.countdown(numbers=2), model=ej.models.tiny(vocab=19, width=16, layers=1, heads=2, context=32),
        teacher=None if teacher is None else str(teacher), recipe="distill", steps=15, prompts=8, samples=4, max_new_tokens=9,
        lr=1e-2, eval_prompts=2, eval_samples=2, eval_k=(1,), eval_every=0, save_every=100,
    )  # fmt: skip
    return ej.Config(**{**base, **changes})


def log_probs(model, tokens):
    """[B, T, V] in float64, from a plain forward."""
    logits = np.asarray(jax.jit(lambda tokens: model(tokens) @ model.head())(tokens), np.float64)
    logits -= logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def divergence(parts, params, tokens):
    """(KL(q || pT), KL(pT || q)) per position of fixed text, q with these weights."""
    student = nnx.merge(nnx.split(parts.model)[0], params)
    q, p = log_probs(student, tokens), log_probs(parts.teacher.model, tokens)
    return float((np.exp(q) * (q - p)).sum(-1).mean()), float((np.exp(p) * (p - q)).sum(-1).mean())


def states_of(c, workdir):
    """(parts, weights before, weights after)."""
    from entjax.checkpoint import Checkpoints

    train(c, workdir)
    parts = setup.build(c)
    checkpoints = Checkpoints(workdir / "checkpoints", keep=10)
    after = checkpoints.restore(checkpoints.steps()[-1], parts.like())
    checkpoints.close()
    return parts, parts.fresh_state(), after


@pytest.mark.parametrize(
    "changes",
    [{"recipe_options": {"reverse": 0.5, "floor": 0.1, "stage": 5}, "strategy": taught(0.5)},
     pytest.param({"recipe": "opd", "steps": 40}, marks=pytest.mark.slow)],
    ids=["whole distributions, mixed text", "sampled tokens"],
)  # fmt: skip
def test_a_student_approaches_its_teacher(changes, teacher, tmp_path):
    parts, before, after = states_of(config(teacher, **changes), tmp_path / "run")
    text = np.random.default_rng(0).integers(2, 19, (16, 12)).astype(np.int32)
    start, end = divergence(parts, before.params, text), divergence(parts, after.params, text)
    assert end[0] < 0.8 * start[0] and end[1] < 0.8 * start[1], (start, end)
    jax.tree.map(np.testing.assert_array_equal, after.reference, parts.teacher.params)  # it never moves
    if "strategy" in changes:
        lengths = [
            r["first_tokens/length"] for r in read_lines(tmp_path / "run" / "metrics.jsonl") if "loss" in r
        ]
        assert lengths == [8] * 5 + [16] * 5 + [32] * 5  # the entropy stays above the floor


def test_the_teacher_writes_its_share(teacher):
    """Half of the groups are what the teacher samples, the others what the student samples."""
    c = config(teacher, prompts=4)
    parts = setup.build(c)
    tools = parts.tools(parts.fresh_state().params, 0)
    examples = [c.task.example(i) for i in range(4)]
    both = taught(0.5)(tools, examples, 0, {})
    theirs, mine = groups()(tools.teacher, examples[:2], 0, {}), groups()(tools, examples[2:], 0, {})
    assert (
        both.texts == theirs.texts + mine.texts and theirs.texts != groups()(tools, examples[:2], 0, {}).texts
    )
    assert both.completions.group.tolist() == np.repeat(np.arange(4), 4).tolist()
    c = both.completions
    logp = log_probs(parts.teacher.model, c.tokens[:1])
    at = np.flatnonzero(c.mask[0])
    np.testing.assert_allclose(c.logp[0, at], logp[0, at - 1, c.tokens[0, at]], atol=1e-5)


def test_what_the_inner_strategy_of_taught_makes_fits(teacher):
    """Rows, ids and memory of two collects: more rows than the prompts', trajectories with numbers, a buffer."""
    c = config(teacher, prompts=5)
    parts = setup.build(c)
    tools = parts.tools(parts.fresh_state().params, 0)
    examples = [c.task.example(i) for i in range(5)]
    for inner, groups_of in ((tempered(share=0.3), 7), (multi_turn(silent(",")), 5)):
        strategy = taught(0.5, inner)
        harvest = strategy(tools, examples, 0, {})
        to_rollout(harvest, rows=strategy.rows(5, tools.samples), length=64, temperature=1.0)
        assert len(np.unique(harvest.completions.group)) == groups_of
        if "trajectory" in harvest.extra:
            assert len(np.unique(harvest.extra["trajectory"])) == len(harvest.texts)
    strategy = taught(0.5, replay(size=4))
    assert strategy.rows(5, 4) == 5 * 4 + 2 * 4
    _, memory = strategy.collect(tools, examples, 0, {"step": 0}, strategy.start)
    assert {name.split(".")[0] for name in memory} == {"teacher", "student"}
    row = [[2, 3]], np.zeros(1, np.int32), (np.zeros(1, np.int32),) * 2
    mine, theirs = (jax.random.key_data(t.stepper.begin(*row).key) for t in (tools, tools.teacher))
    assert (mine != theirs).any()  # an equal teacher writes another text


def test_supervised_losses_of_a_config(teacher):
    with pytest.raises(ConfigError, match="compares with a teacher"):
        config(None, sft_steps=2, sft_loss=sft.distill())
    with pytest.raises(ValueError, match="set teacher=FOLDER"):
        parts = setup.build(config(None, recipe="grpo", strategy=taught()))
        tools = parts.tools(parts.fresh_state().params, 0)
        parts.strategy(tools, parts.stream.next(), 0, {})
    with pytest.raises(ConfigError, match="nothing looks at it"):
        setup.build(config(teacher, recipe="grpo"))
    with pytest.raises(ConfigError, match="vocabulary of 19 tokens and the model one of 23"):
        setup.build(config(teacher, model=ej.models.tiny(vocab=23, width=16, layers=1, heads=2, context=32)))
    assert config(teacher).identity() != config(None).identity()
