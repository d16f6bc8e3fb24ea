"""tasks.split: equal prompts on one side, small tasks exactly parted; a run says when it is evaluated on what it trains."""

from __future__ import annotations

import collections

import pytest

import entjax as ej
from entjax import held_out, setup
from entjax.tasks.split import WHOLE
from entjax.tasks.task import stand_ins

SIDES = ("training", "evaluation")


def numbers(size: int | None, distinct: int) -> ej.tasks.Task:
    """A task that asks one of `distinct` questions at every index."""
    return ej.tasks.Task("numbers", lambda i: ej.tasks.Example(f"{i % distinct}="), size, lambda e, t: 0.0)


def configured(**tasks) -> ej.Config:
    return ej.Config(model="a-folder", eval_every=5, eval_prompts=20, **tasks)


def test_a_small_task_is_parted_row_by_row():
    task = numbers(1000, 1000)
    sides = ej.tasks.split(task, 0.25)
    prompts = [[side.example(i).prompt for i in range(side.size)] for side in sides]
    assert sorted(prompts[0] + prompts[1]) == sorted(task.example(i).prompt for i in range(1000))
    assert 0.2 < sides[1].size / 1000 < 0.3
    again = ej.tasks.split(task, 0.25)
    assert [again[1].example(i).prompt for i in range(again[1].size)] == prompts[1]


@pytest.mark.parametrize("size", [None, WHOLE + 1, 1_000_000])
def test_a_large_task_keeps_its_size_and_no_prompt_is_on_both_sides(size):
    sides = ej.tasks.split(numbers(size, 5003))
    assert [side.size for side in sides] == [size, size]
    seen = [{side.example(i).prompt for i in range(3000)} for side in sides]
    assert not seen[0] & seen[1]
    assert len({sides[1].example(i).prompt for i in range(128)}) > 110  # stand-ins differ from one another


def test_the_share_is_the_share_of_prompts_and_the_key_decides_what_is_equal():
    task = ej.tasks.Task(
        "pairs", lambda i: ej.tasks.Example(f"{i // 100}+{i % 100}"), 10_000, lambda e, t: 0.0
    )
    for share in (0.05, 0.5, 0.9):
        held = ej.tasks.split(task, share)[1]
        assert abs(held.size / 10_000 - share) < 0.02
    swapped = lambda prompt: "+".join(sorted(prompt.split("+")))
    sides = ej.tasks.split(task, 0.5, key=swapped)
    where = collections.defaultdict(set)
    for name, side in zip(SIDES, sides, strict=True):
        for i in range(side.size):
            where[swapped(side.example(i).prompt)].add(name)
    assert all(len(found) == 1 for found in where.values()) and len(where) == 5050


def test_what_cannot_be_parted_is_said():
    with pytest.raises(ValueError, match="between 0 and 1"):
        ej.tasks.split(numbers(10, 10), 1.0)
    with pytest.raises(
        ValueError, match=r"of numbers, split 0.1 are (trained on|held out): give another share"
    ):
        ej.tasks.split(numbers(10, 1))
    sides = ej.tasks.split(numbers(None, 1))
    with pytest.raises(ValueError, match=r"none is to be (trained on|held out)"):
        [side.example(0) for side in sides]
    for size, wrong in ((WHOLE + 1, WHOLE + 1), (100, 99), (100, -1)):
        with pytest.raises(IndexError, match=r"numbers.* has no example"):
            ej.tasks.split(numbers(size, 50))[0].example(wrong)
    rows = ej.tasks.Task("rows", lambda i: {"prompt": "1"}, 10, lambda e, t: 0.0)  # type: ignore[return-value]
    with pytest.raises(TypeError, match=r"gives a dict; its example\(index\) has to make a tasks.Example"):
        ej.tasks.split(rows)


@pytest.mark.parametrize("size", [1000, None])
def test_a_part_is_parted_again_with_another_seed(size):
    training, held_out = ej.tasks.split(numbers(size, 1009), 0.3)
    parts = (training, *ej.tasks.split(held_out, 0.5, seed=1))
    asked = [{part.example(i).prompt for i in range(part.size or 800)} for part in parts]
    assert not (asked[0] & asked[1] or asked[0] & asked[2] or asked[1] & asked[2])
    assert min(map(len, asked)) > 100
    assert parts[0].name != parts[1].name  # by which a checkpoint would tell
    if size:
        with pytest.raises(ValueError, match="parted again with the seed it was made with"):
            ej.tasks.split(held_out, 0.3)


def test_keys_need_not_be_text_and_prompts_not_be_valid():
    task = ej.tasks.Task("odd", lambda i: ej.tasks.Example("\ud800" * i), 100, lambda e, t: 0.0)
    sides = ej.tasks.split(task, 0.5, key=len)  # type: ignore[arg-type]
    assert sum(side.size or 0 for side in sides) == 100 and min(side.size or 0 for side in sides) > 20


def test_stand_ins_are_all_different():
    for size in (*range(1, 300), 30_064, 60_580, 1_000_000):
        for tries in (100, 10_000):
            found = list(stand_ins(7 % size, size, tries))
            assert len(found) == tries and len(set(found)) == min(tries, size), size


def test_seeds_of_reasoning_gym_share_examples_and_a_run_says_so(capsys):
    """Its example i of seed s is drawn from s + i; the library's own behaviour, so it is looked at and not assumed."""
    pytest.importorskip("reasoning_gym")
    one, two = (ej.tasks.reasoning_gym("chain_sum", seed=seed, max_digits=6) for seed in (1, 2))
    assert one.example(1).prompt == two.example(0).prompt
    c = configured(task=one, eval_task=two)
    held_out.say_what_is_shared(c, setup.eval_examples(c))
    assert (
        "20 of the 20 evaluation prompts are also among the 999 training prompts looked at (of 1000000)"
        in capsys.readouterr().err
    )
    train, other = ej.tasks.split(one)
    for c in (configured(task=train, eval_task=other), configured(task=one)):
        held_out.say_what_is_shared(c, setup.eval_examples(c))
        assert capsys.readouterr().err == ""
