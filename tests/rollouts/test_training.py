"""Every strategy trains the quickstart's task (slow): sizes that the compiled step gets, tokens that teach, finite losses, and
the effect on entropy that its paper claims, in direction; and on a mesh."""

import dataclasses
import functools
import operator
import re
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np
import pytest

from entjax import setup, tasks
from entjax.config import load_config, shipped_configs
from entjax.log import read_lines
from entjax.rollouts import (
    EchoRules,
    arpo,
    as_strategy,
    cure,
    echo,
    groups,
    multi_turn,
    particle_filter,
    replay,
    silent,
    tree,
)
from entjax.rollouts.particles import Plan, by_ess
from entjax.sampler import Sampling
from entjax.studies import strategies
from entjax.train import train
from tests.rollouts import gradients, world

STEPS = silent(",")
OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul}
RULES = EchoRules(
    entropy_high=0.5, branch_threshold=4.0, entropy_low=0.1, entropy_delta_threshold=0.0, min_depth=0
)


@functools.lru_cache(None)
def run(name):
    """Each run of the study once."""
    with tempfile.TemporaryDirectory() as folder:
        return strategies.study(name, Path(folder) / "run")


# Twenty steps -----------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", strategies.RUNS)
def test_trains(name):
    result = run(name)
    loss, norm = result.series("loss"), result.series("grad_norm")
    assert len(loss) == len(result.harvests) == 20
    assert (
        np.isfinite(loss).all() and np.isfinite(norm).all() and (result.series("update/skipped") == 0).all()
    )
    assert norm.max() > 0
    assert loss[-5:].mean() < loss[:5].mean() + 0.05  # falling or stable
    for harvest in result.harvests:
        c = harvest.completions
        replayed = harvest.extra.get("replayed", np.zeros(len(c.group), bool))
        ids, sizes = np.unique(c.group[~replayed], return_counts=True)
        assert len(ids) == 16 + 8 * name.startswith("tempered") and (sizes == 16).all()
        assert len(c.group) <= result.config.rows


def higher(name, control):
    return run(name).after["eval/entropy"] - run(control).after["eval/entropy"]


@pytest.mark.slow
def test_dynamic_sampling_brings_groups_with_a_signal():
    assert (
        run("dynamic").series("groups/no_signal").mean() < 0.5 * run("dapo").series("groups/no_signal").mean()
    )


@pytest.mark.slow
def test_recent_samples_waste_no_group_with_a_signal():
    """What is drawn too much in one step is trained on in a later one, none is lost, and every batch is full of signal."""
    recent = run("recent_samples")
    assert recent.series("groups/no_signal").mean() < 0.5 * run("dapo").series("groups/no_signal").mean()
    kept, recovered = recent.series("sampling/kept"), recent.series("sampling/recovered")
    assert recovered.sum() > 5 and recovered[0] == 0
    np.testing.assert_array_equal(recovered[1:], np.minimum(kept[:-1], 16))


@pytest.mark.slow
def test_cure_keeps_entropy():
    assert higher("cure", "dapo") > 0


@pytest.mark.slow
def test_votes_make_sure_and_of_one_mind():
    result = run("votes")
    ratio = result.series("vote/majority_ratio")
    assert ratio[-5:].mean() > ratio[:5].mean()
    assert result.after["eval/entropy"] < result.before["eval/entropy"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tree", "echo"])
def test_trees_hold_the_collapse_of_votes(name):
    assert higher(name, "votes") > 0
    assert run(name).series("sampling/computed_share").mean() < 1


@pytest.mark.slow
def test_the_target_of_tempered_rows_moves_entropy():
    assert higher("tempered", "tempered_low") > 0


@pytest.mark.slow
def test_templates_make_rollouts_less_certain():
    first = [run(name).series("entropy/rollout")[:5].mean() for name in ("augmentation", "dapo")]
    assert first[0] > first[1]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["arpo", "agentic"])
def test_branches_start_where_entropy_rose(name, monkeypatch):
    """Of the decisions of a run, those for a branch saw the larger rise; and AEPO's penalty makes streaks rarer."""
    seen, module = [], sys.modules[f"entjax.rollouts.{name}"]
    plain = module.branches

    def noted(u, rise, *rest):
        decision = bool(plain(u, rise, *rest))
        seen.append((float(rise), decision, int(rest[0]) if name == "agentic" else 0))
        return decision

    monkeypatch.setattr(module, "branches", noted)
    c = strategies.config(name, prompts=64)
    parts = setup.build(c)
    strategy = as_strategy(c.strategy)
    strategy(parts.tools(parts.fresh_state().params, 0), parts.stream.next(), 0, {})
    rise, branched, streak = (np.array(x) for x in zip(*seen, strict=True))
    assert len(rise) > 200 and 0.2 < branched.mean() < 0.8
    assert rise[branched].mean() > rise[~branched].mean()
    if name == "agentic":
        assert branched[streak >= 2].mean() < branched[streak == 0].mean()


@pytest.mark.slow
def test_tool_light_branches_uncertain_turns(monkeypatch):
    module, chosen, every = sys.modules["entjax.rollouts.tool_light"], [], []
    plain = module.branch_steps

    def noted(scores, steps):
        found = plain(scores, steps)
        every.extend(scores)
        chosen.extend(scores[i] for i in found)
        return found

    monkeypatch.setattr(module, "branch_steps", noted)
    c = strategies.config("tool_light", prompts=16)
    parts = setup.build(c)
    c.strategy(parts.tools(parts.fresh_state().params, 0), parts.stream.next(), 0, {})
    assert np.mean(chosen) > np.mean(every) and len(chosen) < len(every)


@pytest.mark.slow
def test_entropic_annealing_keeps_more_particles():
    """On the warm start, scored by whether the target can still be reached: annealing resamples from flatter weights, so more
    different answers are left; and the search is right more often than a sample."""
    c = strategies.config("grpo", prompts=32)
    parts = setup.build(c)
    examples = parts.stream.next()
    prompts, params = [parts.encode(e) for e in examples], parts.fresh_state().params

    def score(owner, completions):
        texts = [parts.tokenizer.decode(ids) for ids in completions]
        return [promise(examples[i], text) for i, text in zip(owner, texts, strict=True)]

    found = {}
    for name, annealing in (("annealed", by_ess), ("plain", None)):
        plan = Plan(steps=8, tokens=3, particles=16, annealing=annealing)
        how = Sampling(c.max_new_tokens)
        found[name] = particle_filter(parts.sampler, params, prompts, how, score, plan, key=jax.random.key(5))
    different = {
        name: np.mean(
            [len({tuple(s.completions.completion(r)) for r in range(16 * i, 16 * i + 16)}) for i in range(32)]
        )
        for name, s in found.items()
    }
    assert different["annealed"] > different["plain"], different
    assert (found["annealed"].temperature > 1).any() and (found["plain"].temperature == 1).all()
    texts = [
        parts.tokenizer.decode(found["annealed"].completions.completion(r)) for r in found["annealed"].best
    ]
    best = np.mean([c.task.verify(e, t) for e, t in zip(examples, texts, strict=True)])
    tools = parts.tools(params, 0)
    assert best > groups()(tools, examples, 0, {}).reward.mean() + 0.2


def promise(example, text):
    """A score of a prefix: can the numbers that its finished steps leave still reach the target?"""
    left = list(example.answer["numbers"])
    for part in text.split(",")[: text.count(",")] + [text.rpartition(",")[2]] * text.endswith("$"):
        step = re.fullmatch(r"([0-9]{1,2})([-+*])([0-9]{1,2})=([0-9]{1,2})", part)
        if step is None or int(step[4]) != OPERATORS[step[2]](int(step[1]), int(step[3])):
            return 0.03
        for used in (int(step[1]), int(step[3])):
            if used not in left:
                return 0.03
            left.remove(used)
        left.append(int(step[4]))
    return 0.97 if reaches(left, example.answer["target"]) else 0.03


def reaches(values, target):
    """Whether the values combine to the target."""
    if len(values) == 1:
        return values[0] == target
    pairs = [(i, j) for i in range(len(values)) for j in range(len(values)) if i != j]
    for i, j in pairs:
        rest = [v for k, v in enumerate(values) if k not in (i, j)]
        if any(reaches([*rest, f(values[i], values[j])], target) for f in OPERATORS.values()):
            return True
    return False


@pytest.mark.slow
def test_a_tool_is_learned_from_reward(tmp_path):
    """configs/calculator.py: calls and reward rise together, on fresh prompts too."""
    c = load_config(shipped_configs() / "calculator.py")
    result = train(c, tmp_path / "run")
    records = [r for r in read_lines(tmp_path / "run" / "metrics.jsonl") if "loss" in r]
    for name, rise in (("turns/call_rate", 0.4), ("reward/mean", 0.3)):
        values = np.array([r[name] for r in records])
        assert len(values) == 60 and values[-5:].mean() > values[:5].mean() + rise, name
    assert result["before"]["eval/call_rate"] < 0.4 and result["after"]["eval/call_rate"] > 0.8
    assert result["after"]["eval/pass@1"] > result["before"]["eval/pass@1"] + 0.3


# Which tokens teach -----------------------------------------------------------------------------------------------------------


@functools.lru_cache(None)
def warm(name="quickstart"):
    """The parts of a run from a shipped warm start."""
    if name == "quickstart":
        return setup.build(strategies.config("grpo", prompts=3))
    c = load_config(shipped_configs() / "calculator.py")
    return setup.build(dataclasses.replace(c, samples=16, prompts=3))


PRESENT = {
    name: run.strategy
    for name, run in strategies.RUNS.items()
    if name not in ("dapo", "tempered_low", "spear", "replay")
}
PRESENT["calculator"] = multi_turn(tasks.calculator_tool())


@pytest.mark.slow
@pytest.mark.parametrize("name", PRESENT)
def test_what_was_sampled_teaches_and_nothing_else(name):
    """The loss has a gradient in the log-probs of exactly the sampled tokens: not of prompts, of prefixes that CURE gives, of
    tokens that ECHO starts branches with, of what a tool says, of padding."""
    parts = warm("calculator" if name == "calculator" else "quickstart")
    forks, pieces, examples = [], [], [parts.config.task.example(i) for i in range(3)]
    tools = gradients.watched(parts.tools(parts.fresh_state().params, 0), forks, pieces)
    harvest = PRESENT[name](tools, examples, 0, {})
    size = gradients.taught(parts, harvest)
    expected, index = gradients.sampled(harvest, size.shape[1]), np.arange(size.shape[1])[None]
    if name == "cure":
        rows = gradients.branches(harvest, 4)
        assert (forks[0] > harvest.completions.prompt_length[rows]).any()
        expected[rows] &= index >= forks[0][:, None]
    if name == "echo":
        rows, first = gradients.branches(harvest, 1), pieces[0] > 0
        assert first.any()
        expected[rows[first], forks[0][first]] = False
    if name == "calculator":
        said = gradients.replies(harvest, tools.decode, size.shape[1])
        assert said.sum() > 30
        expected &= ~said
    assert (size[~expected] == 0).all()
    unsure = expected & (gradients.padded(harvest.completions.entropy, size.shape[1]) > 1e-3)
    assert unsure.sum() > 100 and (size[unsure] > 0).all()


# On a mesh --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "strategy", [tree(forks=2, branches=2), arpo(STEPS), echo(RULES)], ids=lambda s: s.name
)
def test_on_a_mesh_the_same_tokens(strategy):
    """Rows over eight devices: tokens and masks of one device, though 40 rows become 40 and 32 places."""
    one = world.collect(strategy)
    spread = world.config(mesh={"fsdp": 8})
    parts = setup.build(spread)
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
