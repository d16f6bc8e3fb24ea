"""Every strategy in a run: sizes that the compiled step gets, masks that it learns from, finite losses (slow); and on a mesh."""

import dataclasses

import numpy as np
import pytest

import entjax as ej
from entjax import tasks
from entjax.log import read_lines
from entjax.rollouts import (
    EchoRules,
    agentic,
    arpo,
    augmentation,
    cure,
    echo,
    groups,
    multi_turn,
    recent_samples,
    replay,
    silent,
    tempered,
    tool_light,
    tree,
    votes,
)
from entjax.rollouts.harvest import to_rollout
from entjax.train import train
from tests.rollouts import world

A, C, R, W = ej.advantages, ej.clips, ej.regularizers, ej.weights
STEPS = silent(",")
RULES = EchoRules(
    entropy_high=0.5, branch_threshold=4.0, entropy_low=0.1, entropy_delta_threshold=0.0, min_depth=0
)
SELF_IMITATION = ej.Objective(
    ej.chain(A.group_normalize(std=False), A.replay_baseline(), A.replay_weight()),
    ej.chain(C.asymmetric(0.2, 0.28), W.clip_cov(), ej.averages.token_mean()),
)
TURNS = ej.Objective(
    ej.chain(ej.rewards.tool_use(0.5), A.group_normalize(), A.empg()),
    ej.chain(R.epo(1e-3), ej.averages.token_mean()),
)
CALCULATOR = tasks.calculator(operands=2, digits=1, tool_share=0.5)
RUNS = {
    "cure": (cure(branches=3, k=3, characters=1), {"recipe": "dapo"}),
    "arpo": (arpo(STEPS), {"recipe": "agentic_aepo"}),
    "agentic": (agentic(STEPS), {"recipe": "agentic_aepo"}),
    "tree": (tree(forks=3, branches=1), {"recipe": "ettrl"}),
    "votes": (votes(12), {"recipe": "grpo"}),
    "echo": (echo(RULES), {"recipe": "echo"}),
    "tool_light": (tool_light(STEPS, counts=(1, 2)), {"recipe": "grpo"}),
    "tempered": (tempered(), {"recipe": "aepo"}),
    "replay": (replay(size=8, ready=0.25), {"objective": SELF_IMITATION}),
    "recent_samples": (recent_samples(), {"recipe": "targeted_entropy"}),
    "augmentation": (augmentation(["{prompt}", "{prompt}>"]), {"recipe": "dapo"}),
    "multi_turn": (multi_turn(tasks.calculator_tool()), {"objective": TURNS, "task": CALCULATOR,
                   "model": ej.models.tiny(vocab=23, width=32, layers=2, heads=2, context=64), "max_new_tokens": 20}),
}  # fmt: skip


def config(strategy, **changes):
    base = {
        "task": ej.tasks.countdown(numbers=2), "model": ej.models.tiny(vocab=19, width=32, layers=2, heads=2, context=64),
        "steps": 20, "prompts": 4, "samples": 8, "max_new_tokens": 9, "lr": 1e-3, "minibatches": 2, "sft_steps": 150,
        "sft_batch": 64, "eval_prompts": 4, "eval_samples": 4, "eval_k": (1,), "eval_every": 0, "save_every": 100,
    }  # fmt: skip
    return ej.Config(**{**base, "strategy": strategy, **changes})


def watched(strategy, seen):
    """The strategy, with a look at every harvest."""

    def collect(tools, examples, step, knobs, memory):
        harvest, memory = strategy.collect(tools, examples, step, knobs, memory)
        seen.append(harvest)
        return harvest, memory

    return strategy._replace(collect=collect)


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_trains(name, tmp_path):
    strategy, changes = RUNS[name]
    seen = []
    c = config(watched(strategy, seen), **changes)
    train(c, tmp_path)
    records = [r for r in read_lines(tmp_path / "metrics.jsonl") if "loss" in r]
    assert [r["step"] for r in records] == list(range(1, 21)) and len(seen) == 20
    assert all(
        np.isfinite(r["loss"]) and np.isfinite(r["grad_norm"]) and r["update/skipped"] == 0 for r in records
    )
    assert max(r["grad_norm"] for r in records) > 0
    for harvest in seen:
        done = harvest.completions
        extra_groups = {"tempered": 1}.get(name, 0)
        replayed = harvest.extra.get("replayed", np.zeros(len(done.group), bool))
        ids, sizes = np.unique(done.group[~replayed], return_counts=True)
        assert len(ids) == 4 + extra_groups and (sizes == 8).all()
        assert len(done.group) <= c.rows
        rollout = to_rollout(harvest, rows=c.rows, length=64, temperature=1.0)
        filler = np.asarray(rollout.group) < 0
        assert filler.sum() == c.rows - len(done.group) and not np.asarray(rollout.mask)[filler].any()
        position = np.arange(64)[None]
        inside = (position >= done.prompt_length[:, None]) & (position < done.length[:, None])
        assert not (np.asarray(rollout.mask)[: len(done.group)] & ~inside).any()
    if name == "multi_turn":
        check_tool_output(seen)
    if name == "cure":
        prefixes = [
            h.completions.mask.sum() < (h.completions.length - h.completions.prompt_length).sum()
            for h in seen
        ]
        assert any(prefixes)
    if name == "replay":
        assert max(h.metrics["replay/rows"] for h in seen) > 0


def check_tool_output(seen):
    """Tool output is outside the mask: the characters behind a call up to `;`."""
    model = ej.models.tiny(vocab=23, width=32, layers=2, heads=2, context=64)
    decode = world.parts(task=CALCULATOR, model=model).tokenizer.decode
    calls = 0
    for harvest in seen:
        c = harvest.completions
        for row in range(len(c.group)):
            ids = c.tokens[row, c.prompt_length[row] : c.length[row]]
            said = c.mask[row, c.prompt_length[row] : c.length[row]]
            outside = "".join(decode([int(i)]) for i in ids[~said])
            calls += outside.count(";")
            assert (
                not set(outside) - set("0123456789-/;?")
                and outside.count(";") <= harvest.extra["tool_calls"][row]
            )
    assert calls > 50


@pytest.mark.parametrize(
    "strategy", [tree(forks=2, branches=2), arpo(STEPS), echo(RULES)], ids=lambda s: s.name
)
def test_on_a_mesh_the_same_tokens(strategy):
    """Rows over eight devices: tokens and masks of one device, though 40 rows become 40 and 32 places."""
    one = world.collect(strategy)
    spread = world.config(mesh={"fsdp": 8})
    parts = ej.setup.build(spread)
    many = strategy(parts.tools(world.params(), 0, samples=world.SAMPLES), world.examples(), 0, {})
    np.testing.assert_array_equal(one.completions.tokens, many.completions.tokens)
    np.testing.assert_array_equal(one.completions.mask, many.completions.mask)
    np.testing.assert_allclose(one.completions.logp, many.completions.logp, atol=5e-5)
    assert one.metrics == many.metrics


def test_the_config_tells_what_was_run():
    """Another setting of a strategy is another run, so a checkpoint of the one is refused by the other."""
    c = world.config(strategy=tree(forks=2, branches=2))
    assert c.identity() == world.config(strategy=tree(forks=2, branches=2)).identity()
    others = [tree(forks=1, branches=4), groups(), replay(tree(forks=2, branches=2)), cure(branches=4)]
    assert (
        len({dataclasses.replace(c, strategy=s).identity() for s in [tree(forks=2, branches=2), *others]})
        == 5
    )
