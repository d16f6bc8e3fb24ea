"""Strategies that remember: what goes in comes out, nothing is lost or used twice, a checkpoint holds all of it."""

import dataclasses
import json

import jax
import numpy as np
import optax
import pytest

import entjax as ej
from entjax.log import read_lines
from entjax.rollouts import Template, augmentation, groups, recent_samples, replay, stateless, tempered
from entjax.rollouts.groups import informative
from entjax.rollouts.harvest import Harvest, to_rollout
from entjax.rollouts.memory import from_harvest, pack, to_harvest, unpack
from entjax.sampler import Completions
from entjax.tasks import Example, Report
from entjax.train import train
from tests import tiny
from tests.records import untimed
from tests.rollouts import world

G = 4


def canned(rewards, name="p"):
    """A harvest without a model: group i has rewards[i]; the text of a row tells where it comes from."""
    rewards = np.asarray(rewards, np.float32)
    n = rewards.size
    width = 6
    tokens = np.arange(n * width, dtype=np.int32).reshape(n, width) % 17
    zeros = np.zeros((n, width), np.float32)
    length = np.full(n, width, np.int32)
    group = np.repeat(np.arange(len(rewards)), rewards.shape[1]).astype(np.int32)
    c = Completions(tokens, np.arange(width)[None] >= np.full((n, 1), 2), zeros - 0.5, zeros + 1, zeros - 0.5, zeros + 1,
                    length - 4, length, np.ones(n, bool), group)  # fmt: skip
    examples = [Example(f"{name}{i}", str(i), {"n": int(i)}) for i in group]
    texts = [f"{name}{g}.{i}\0" for i, g in enumerate(group)]
    return Harvest(
        c,
        examples,
        texts,
        rewards.ravel(),
        Report(verified=n),
        {},
        {"tool_calls": np.arange(n, dtype=np.int32) % 2},
    )


def play(strategy, harvests):
    """(harvest, memory) of every step; the memory goes through a checkpoint each time."""
    memory, out = strategy.start, []
    tools = world.tools(samples=G)
    for step in range(len(harvests)):
        harvest, memory = strategy.collect(tools._replace(seed=(0, step)), [], step, {"step": step}, memory)
        memory = unpack(json.loads(json.dumps(pack(memory))))
        out.append((harvest, memory))
    return out


def scripted(harvests):
    return stateless("scripted", lambda tools, examples, step, knobs: harvests[step])


def test_a_harvest_survives_as_text():
    harvest = canned([[0, 1, 0.25, 1]])
    back = to_harvest(unpack(pack(from_harvest(harvest))))
    for name in Completions.__dataclass_fields__:
        a, b = getattr(harvest.completions, name), getattr(back.completions, name)
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype
    assert back.examples == harvest.examples and back.texts == harvest.texts
    np.testing.assert_array_equal(back.extra["tool_calls"], harvest.extra["tool_calls"])
    assert pack({}) == "" and unpack("") == {}
    with pytest.raises(TypeError, match="keep arrays of numbers or texts"):
        pack({"bad": np.array([object()])})


def test_replay_keeps_successes_until_there_are_enough():
    """Means .5, 0, .25 and 1: the median of the last groups decides which stored successes are worth repeating."""
    steps = [
        canned([[0, 1, 0, 1]], "a"),
        canned([[0, 0, 0, 0]], "b"),
        canned([[1, 0, 0, 0]], "c"),
        canned([[1, 1, 1, 1]], "d"),
    ]
    steps += [canned([[0, 0, 0, 1]], "e")]
    out = play(replay(scripted(steps), size=2, ready=1.0, tolerate=10), steps)
    assert [h.metrics["replay/buffer"] for h, _ in out] == [2, 2, 3, 0, 1]
    assert [h.metrics["replay/rows"] for h, _ in out] == [0, 0, 0, 2, 0]
    harvest = out[3][0]
    again = harvest.extra["replayed"]
    assert again.sum() == 2 and not again[:4].any()
    assert {t.strip("\0") for t, r in zip(harvest.texts, again) if r} <= {"a0.1", "a0.3", "c0.0"}
    assert (harvest.reward[again] > np.median([0.5, 0, 0.25])).all()
    stored = dict(zip(("a0.1", "a0.3", "c0.0"), (0.5, 0.5, 0.75)))
    kept = [stored[t.strip("\0")] for t, r in zip(harvest.texts, again) if r]
    np.testing.assert_allclose(harvest.extra["stored_advantage"], [0] * 4 + kept)
    assert len(np.unique(harvest.completions.group[again])) == 2 and 0 not in harvest.completions.group[again]
    np.testing.assert_allclose(out[-1][1]["means"], [0.5, 0, 0.25, 1, 0.25])
    rollout = to_rollout(harvest, rows=4 + 2, length=6, temperature=1.0)
    assert rollout.group.tolist()[:4] == [0] * 4 and rollout.extra["replayed"].tolist() == again.tolist()


def test_replay_forgets_what_is_old_and_may_ask_for_tool_calls():
    steps = [canned([[0, 1, 1, 0]]), *[canned([[0, 0, 0, 0]])] * 4]
    out = play(replay(scripted(steps), size=8, tolerate=2), steps)
    assert [h.metrics["replay/buffer"] for h, _ in out] == [2, 2, 2, 0, 0]
    assert set(out[2][1]["step"]) == {0}
    with pytest.raises(ValueError, match="has none: use an inner strategy with tools"):
        replay(calls=1)
    tooled = scripted(steps)._replace(provides=frozenset({"tool_calls"}))
    called = play(replay(tooled, size=8, calls=1), steps)
    assert called[0][0].metrics["replay/buffer"] == 1  # of rows 1 and 2 only the first has an odd number


def test_replay_takes_a_power_of_two():
    steps = [canned([[0, 1, 1, 1], [0, 1, 1, 1]]), canned([[0, 0, 0, 1]]), canned([[0, 0, 0, 0]])]
    out = play(replay(scripted(steps), size=100, ready=0.05), steps)
    assert out[1][0].metrics["replay/rows"] == 4  # of six


def test_replayed_rows_keep_the_log_probs_of_who_sampled_them():
    rollout = tiny.rollout(extra={"replayed": np.arange(8) % 2 == 1})
    state = ej.init_train_state(tiny.model(), ej.recipes.grpo(), optax.sgd(0.1), jax.random.key(0))
    scored = ej.make_score(tiny.model(), ej.recipes.grpo())(state, rollout)
    plain = ej.make_score(tiny.model(), ej.recipes.grpo())(state, rollout.replace(extra={}))
    np.testing.assert_array_equal(scored.old_logp[1::2], rollout.old_logp[1::2])
    np.testing.assert_array_equal(scored.old_logp[::2], plain.old_logp[::2])
    assert (np.asarray(plain.old_logp[1::2]) != np.asarray(rollout.old_logp[1::2])).any()


def supply(rewards):
    """Tools whose prompts have numbers and whose groups are informative where rewards[number] says so."""
    drawn = [0]

    def draw(count):
        numbers = range(drawn[0], drawn[0] + count)
        drawn[0] += count
        return [Example(str(n), None, None) for n in numbers]

    def generate(prompts, samples, prompt_ids):
        c = canned(np.zeros((len(prompts), samples))).completions
        return c.replace(group=np.repeat(np.asarray(prompt_ids, np.int32), samples))

    def score(examples, texts):
        mixed = [bool(rewards[int(e.prompt)]) for e in examples]
        reward = np.where(mixed, np.arange(len(examples)) % 2, 0).astype(np.float32)
        return reward, Report(verified=len(examples))

    base = world.tools(samples=G)
    return base._replace(generate=generate, encode=lambda e: [2, 3], draw=draw, score=score), draw


def test_recent_samples_lose_nothing_and_use_the_oldest_first():
    rng = np.random.default_rng(0)
    rewards = rng.random(200) < 0.5
    tools, draw = supply(rewards)
    strategy, memory = recent_samples(resample=4, surplus=3.0), {}
    used, produced = [], 0
    for step in range(6):
        harvest, memory = strategy.collect(tools, draw(4), step, {}, memory)
        memory = unpack(pack(memory))
        assert harvest.completions.group.tolist() == np.repeat(np.arange(4), G).tolist()
        prompts = [int(e.prompt) for e in harvest.examples[::G]]
        assert rewards[prompts].all()
        for n in range(4):
            rows = slice(n * G, n * G + G)
            assert len({e.prompt for e in harvest.examples[rows]}) == 1 and set(harvest.reward[rows]) == {
                0.0,
                1.0,
            }
        used += prompts
        produced += harvest.metrics["sampling/produced"]
        kept = (
            len(to_harvest({k.removeprefix("row."): x for k, x in memory.items()}).texts) // G
            if memory
            else 0
        )
        assert harvest.metrics["sampling/kept"] == kept
        assert len(used) + kept == produced
    assert used == sorted(used) and len(set(used)) == len(used)
    assert used == np.flatnonzero(rewards)[: len(used)].tolist()


def test_recent_samples_keep_something_by_default():
    tools, draw = supply(np.arange(200) % 8 >= 3)
    kept, memory = 0.0, {}
    for step in range(8):
        harvest, memory = recent_samples().collect(tools, draw(4), step, {}, memory)
        kept += harvest.metrics["sampling/kept"]
    assert kept > 0


def test_a_group_of_one_is_not_thrown_away():
    alone, groups_of = canned(np.zeros((3, 1))), canned([[0.0, 0.0], [0.0, 1.0]])
    assert informative(alone).all() and informative(groups_of).tolist() == [False, True]


def test_recent_samples_fill_up_when_nothing_is_informative():
    tools, draw = supply(np.zeros(200, bool))
    harvest, memory = recent_samples(resample=2, surplus=1.0).collect(tools, draw(4), 0, {}, {})
    assert len(harvest.texts) == 4 * G and not memory
    assert harvest.report.verified == 3 * 4 * G


def test_tempered_groups_stand_behind_the_others():
    plain = world.collect(groups())
    harvest = world.collect(tempered(share=0.5), knobs={"tempered_temperature": 0.25})
    assert harvest.extra["tempered"].tolist() == [False] * 40 + [True] * 20
    assert harvest.texts[:40] == plain.texts
    world.check(harvest, groups=6)  # log-probs are the policy's, not the tempered ones
    c = harvest.completions
    cold, warm = (c.entropy[rows][c.mask[rows]].mean() for rows in (slice(40, 60), slice(0, 40)))
    nll = lambda rows: -c.logp[rows][c.mask[rows]].mean()
    assert nll(slice(40, 60)) < 0.8 * nll(slice(0, 40)), (cold, warm)
    sampled = -c.sampled_logp[40:][c.mask[40:]].mean()
    assert sampled < nll(slice(40, 60))
    assert [e.prompt for e in harvest.examples[40::10]] == [e.prompt for e in harvest.examples[:20:10]]
    assert world.config(strategy=tempered(share=0.5)).rows == 60
    assert harvest.metrics["tempered/temperature"] == 0.25


def test_a_group_shares_its_template():
    templates = ["{prompt}", "={prompt}", Template("=={prompt}", ("1", "=3"))]
    plain = {e.prompt: e.answer for e in world.examples(40)}
    chosen = []
    for step in range(3):
        harvest = world.collect(augmentation(templates), step=step, count=20, samples=2)
        for n in range(20):
            first, second = harvest.examples[2 * n : 2 * n + 2]
            assert first == second
            bare = first.prompt.lstrip("=")
            chosen.append(len(first.prompt) - len(bare))
            assert plain[bare] == first.answer
            tokens = harvest.completions.tokens[2 * n, : harvest.completions.prompt_length[2 * n]]
            assert world.parts().tokenizer.decode(tokens.tolist()) == first.prompt
            for row in (2 * n, 2 * n + 1):
                text = harvest.texts[row]
                formed = 1.0 if chosen[-1] < 2 else ((text.count("1") == 1) + (text.count("=3") == 1)) / 2
                assert harvest.reward[row] == pytest.approx(formed)  # a random model is never right
    assert np.bincount(chosen, minlength=3).min() >= 10  # of 60, a third each
    one = world.collect(augmentation(["{prompt}"], tags=0.0))
    same = world.collect(groups())
    assert one.texts == same.texts and one.reward.tolist() == same.reward.tolist()
    with pytest.raises(ValueError, match="once"):
        augmentation(["no slot"])


def test_what_a_strategy_draws_again_is_asked_through_a_template_too():
    """A tag that cannot occur: no row of any inner strategy has the reward of its format, replayed ones neither."""
    never = [Template("={prompt}", ("\x00",))]
    drawn = world.collect(augmentation(never, groups(resample=1)), samples=2)
    assert drawn.metrics["augmentation/format"] == 0 and not drawn.reward.any()
    assert all(e.prompt.startswith("=") for e in drawn.examples)
    tools, found = world.tools(samples=2), []

    def twice(tools, examples, step, knobs, memory):
        """Scores what was scored before, as a strategy with a memory may."""
        harvest = groups()(tools, examples, step, knobs)
        found.append(tools.score(harvest.examples, harvest.texts)[0])
        return harvest, memory

    inner = groups()._replace(collect=twice)
    harvest = augmentation([Template("={prompt}", ("1",))], inner)(tools, world.examples(), 0, {})
    np.testing.assert_array_equal(found[0], harvest.reward)
    assert 0 < harvest.reward.sum() < len(harvest.reward)


def odd_texts(**changes):
    """A run whose rewards differ inside groups: a text of odd length is right."""
    task = ej.tasks.countdown(numbers=2)._replace(
        verify=lambda example, text: float(len(text) % 2), solution=None
    )
    return world.config(
        task=task, steps=4, prompts=2, samples=4, max_new_tokens=9, save_every=1, keep=3, **changes
    )


@pytest.mark.parametrize(
    "strategy",
    [
        # for every suite in tests/faults/test_kills.py, whose config has a buffer
        pytest.param(replay(size=4, ready=0.25, tolerate=2), marks=pytest.mark.slow),
        pytest.param(recent_samples(resample=1, surplus=4.0), marks=pytest.mark.slow),
    ],
    ids=lambda s: s.name,
)
def test_resume_brings_the_memory_back(strategy, tmp_path):
    """Two steps and two more after a restart are four steps: metrics, samples and weights."""
    objective = ej.Objective(
        ej.chain(
            ej.advantages.group_normalize(), ej.advantages.replay_baseline(), ej.advantages.replay_weight(1.0)
        ),
        ej.averages.token_mean(),
    )
    run = lambda steps: dataclasses.replace(odd_texts(strategy=strategy, objective=objective), steps=steps)
    train(run(4), tmp_path / "whole")
    train(run(2), tmp_path / "halves")
    train(run(4), tmp_path / "halves", resume=True)
    whole, halves = (
        untimed([r for r in read_lines(tmp_path / d / "metrics.jsonl") if "loss" in r], "eval/")
        for d in ("whole", "halves")
    )
    assert whole == halves and len(whole) == 4
    assert max(r.get("replay/rows", r.get("sampling/kept", 0)) for r in whole) > 0
