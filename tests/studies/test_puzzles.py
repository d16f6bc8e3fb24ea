"""The study's tasks: worked answers that the verifier takes, prompts and answers that fit, and what is held out."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import random
import re

import pytest
from flax import nnx

from entjax import setup, tasks
from entjax.evaluate import evaluate_run
from entjax.studies import cells, grid, puzzles
from entjax.tasks.scoring import Watch

pytest.importorskip("reasoning_gym")


@pytest.mark.parametrize("setting", grid.settings().values(), ids=lambda s: s.name)
def test_worked_answers_are_right_and_fit_the_policy(setting):
    rng = random.Random(0)
    for task in (setting.train(), setting.held_out()):
        examples = [task.example(i) for i in range(60)]
        assert task.solution is not None and task.alphabet is not None
        answers = [task.solution(e, rng) for e in examples]
        assert set("".join([e.prompt for e in examples] + answers)) <= set(task.alphabet)
        assert len(task.alphabet) + 2 == setting.vocab  # with padding and the end
        longest = max(map(len, answers))
        assert longest + 1 <= setting.max_new_tokens
        assert max(len(e.prompt) for e in examples) + setting.max_new_tokens <= setting.context
        with tasks.scorer(task) as scorer:
            rewards, _ = scorer.score(examples, answers)
            assert rewards.tolist() == [1.0] * 60
            wrong, _ = scorer.score(examples, [a[::-1] + a[:1] for a in answers])
            assert wrong.mean() < 0.5


def test_every_shortest_way_to_open_the_lock_is_as_likely():
    task = puzzles.quantum_lock(held_out=False)
    assert task.solution is not None
    example = next(
        e for e in map(task.example, itertools.count()) if len(e.answer.split()) == 9
    )  # five presses, four arrows
    with tasks.scorer(task) as scorer:
        tried = ["".join(keys) for keys in itertools.product("ABC", repeat=5)]
        rewards, _ = scorer.score([example] * len(tried), tried)
    right = {keys for keys, reward in zip(tried, rewards, strict=True) if reward == 1}
    rng = random.Random(0)
    drawn = collections.Counter(task.solution(example, rng) for _ in range(3000))
    assert (
        set(drawn) <= right
    )  # a press that does nothing counts for the library: such ways are right and never drawn
    expected = 3000 / len(drawn)
    assert len(drawn) > 1 and sum((n - expected) ** 2 / expected for n in drawn.values()) < 5 * len(drawn)


def test_no_lock_that_is_held_out_is_trained_on():
    of = lambda held_out: [
        "".join(sorted(puzzles.quantum_lock(held_out).example(i).prompt)) for i in range(1500)
    ]
    trained, held = set(of(False)), set(of(True))
    assert not trained & held and len(held) > 50


@pytest.mark.slow
def test_sums_that_a_warm_start_saw_are_not_easier_to_it(tmp_path):
    """Two thirds of chain_sum's evaluation occur in the supervised training too; does it measure what was learned by heart?
    Two minutes; `-n 0 -s` prints the shares of right answers, `grid.SEEN` quotes them."""
    setting = grid.settings()["chain_sum"]
    warm = setting.warm_config(0)
    stream = setup.make_stream(dataclasses.replace(warm, prompts=warm.sft_batch))
    seen = {e.prompt for _ in range(warm.sft_steps) for e in stream.take(warm.sft_batch)}
    model = cells.Study(tmp_path, cells.Size()).warm_start(setting, 0)
    assert model is not None
    config = dataclasses.replace(
        setting.config(grid.Arm("grpo"), model, **cells.Size()._asdict()), eval_samples=8, eval_k=(1,)
    )
    parts = setup.build(config)
    unlike = map(setting.held_out().example, range(200_000, 230_000))
    asked = {e.prompt: e for e in unlike}
    for form in (r"\d\d[+-]\d\d=", r"\d[+-]\d[+-]\d="):
        shares = []
        for known in (True, False):
            found = [
                e for e in asked.values() if re.fullmatch(form, e.prompt) and (e.prompt in seen) == known
            ]
            found = found[:512]
            assert len(found) > 100
            measured = parts._replace(eval_examples=found)
            shares.append(evaluate_run(measured, nnx.state(parts.model), Watch(print))["eval/pass@1"])
        print(f"{form}: {shares[0]:.3f} of those it saw, {shares[1]:.3f} of others")
        assert abs(shares[0] - shares[1]) < 0.05
    parts.close()
