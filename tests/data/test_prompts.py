"""The stream of prompts: epochs, restarts, processes."""

import itertools
import json

import numpy as np
import pytest

from entjax.data import prompts
from entjax.tasks import Example, arithmetic, countdown

ROWS = [Example(f"row {i}", str(i)) for i in range(10)]


def take(stream, batches):
    return [[example.prompt for example in stream.next()] for _ in range(batches)]


def flat(batches):
    return list(itertools.chain.from_iterable(batches))


def test_every_epoch_has_every_row_once_in_another_order():
    seen = np.concatenate(take(prompts(ROWS, seed=1, batch=4), 10)).reshape(4, 10)
    for epoch in seen:
        assert sorted(epoch) == sorted(row.prompt for row in ROWS)
    assert len({tuple(epoch) for epoch in seen}) == 4
    assert take(prompts(ROWS, seed=1, batch=4), 10) == seen.reshape(10, 4).tolist()
    assert take(prompts(ROWS, seed=2, batch=4), 10) != seen.reshape(10, 4).tolist()


@pytest.mark.parametrize("source", [ROWS, countdown(), arithmetic()])
def test_a_restored_stream_goes_on_where_the_other_stopped(source):
    stream = prompts(source, seed=5, batch=4)
    take(stream, 3)
    state = json.loads(json.dumps(stream.state()))
    expected = take(stream, 5)
    other = prompts(source, seed=5, batch=4)
    other.restore(state)
    assert take(other, 5) == expected
    assert state["position"] == 12 and other.state() == stream.state()


def test_processes_share_every_batch_in_order_and_may_change_in_number():
    expected = take(prompts(ROWS, batch=6), 4)
    for count in (2, 3, 6):
        parts = [take(prompts(ROWS, batch=6, process_index=i, process_count=count), 4) for i in range(count)]
        assert [flat(part[k] for part in parts) for k in range(4)] == expected
    stream = prompts(ROWS, batch=6)
    take(stream, 2)
    halves = [prompts(ROWS, batch=6, process_index=i, process_count=2) for i in range(2)]
    for half in halves:
        half.restore(stream.state())
    assert take(halves[0], 1)[0] + take(halves[1], 1)[0] == expected[2]


def test_another_batch_size_continues_at_the_same_prompt():
    order = flat(take(prompts(ROWS, batch=1), 20))
    stream = prompts(ROWS, batch=4)
    take(stream, 2)
    other = prompts(ROWS, batch=5)
    other.restore(stream.state())
    assert take(other, 2) == [order[8:13], order[13:18]]


def test_an_endless_task_is_read_in_its_own_order():
    task = countdown()
    assert flat(take(prompts(task, batch=3), 3)) == [task.example(i).prompt for i in range(9)]


@pytest.mark.parametrize(
    "changed",
    [
        {"position": -1},
        {"position": "x"},
        {"seed": 1},
        {"size": 11},
        {"source": "other"},
    ],
)
def test_a_state_of_other_data_is_refused(changed):
    stream = prompts(ROWS, batch=2)
    (value,) = changed.values()
    with pytest.raises(ValueError, match=f"(?s)does not fit.*{value}"):
        stream.restore(stream.state() | changed)


def test_tasks_with_another_seed_are_told_apart():
    with pytest.raises(ValueError, match="first was"):
        prompts(countdown(seed=1), batch=2).restore(prompts(countdown(seed=2), batch=2).state())


@pytest.mark.parametrize(
    "arguments,words",
    [
        ({"batch": 0}, "positive multiple"),
        ({"batch": 3, "process_count": 2}, "multiple of the 2 processes"),
        ({"batch": 2, "process_count": 2, "process_index": 2}, "counted from 0"),
        ({"batch": 2, "seed": -1}, "seed"),
    ],
)
def test_bad_arguments_are_named(arguments, words):
    with pytest.raises(ValueError, match=words):
        prompts(ROWS, **arguments)


def test_an_empty_source_is_refused():
    with pytest.raises(ValueError, match="empty"):
        prompts([], batch=2)
