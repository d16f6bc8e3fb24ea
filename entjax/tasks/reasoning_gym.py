"""Any procedural data set of reasoning-gym by its name, with that library's own scoring, in the verifier
pool.

Some of its scorers call `eval` on the answer or hand it to sympy's parser, which does. Here they run in
worker processes only, under the limits of guard.py: an evaluated answer may contain literals and mathematics
and nothing else.
"""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Callable
from typing import Any

from entjax.tasks.numbers import last_boxed, last_tagged
from entjax.tasks.task import Example, Spec, Task, check_index, same_as

SIZE = 1_000_000  # these data sets are virtual: an example costs nothing until it is asked for


def reasoning_gym(name: str, *, seed: int = 0, size: int = SIZE, **config: Any) -> Task:
    """The data set `name` with its own configuration as keyword arguments: `reasoning_gym("chain_sum",
    max_terms=3)`.
    """
    arguments = {"name": name, "seed": seed, "size": size, **config}
    json.dumps(
        arguments
    )  # what cannot be written as JSON cannot reach a worker: TypeError here, before a run has begun
    data = _open(**arguments)

    def example(index: int) -> Example:
        check_index(index, size, name)
        return _example(data[index], index)

    def verify(example: Example, text: str) -> float:
        raise RuntimeError(
            f"reasoning-gym's scorer for {name} is not safe on model text in this process:"
            " use ej.tasks.scorer(task).score(...)."
        )

    spec = Spec(f"{__name__}:verifier", arguments)
    return Task(
        f"reasoning_gym/{name}", example, size, same_as(spec, verify), verifier=spec, canonical=canonical
    )


def verifier(**arguments: Any) -> Callable[[Example, str], float]:
    """For the pool's workers: rebuilds the entry from its index (metadata need not be plain data) and scores
    the final answer.
    """
    data = _open(**arguments)
    regenerate = functools.lru_cache(maxsize=256)(data.__getitem__)  # the samples of a group share one

    def entry(example: Example) -> dict[str, Any]:
        meta = example.meta or {}
        if "entry" in meta:
            return unpack(meta["entry"])
        again = regenerate(meta["index"])
        if again["question"] != example.prompt:
            raise ValueError(f"{arguments['name']} gives another example {meta['index']} in another process.")
        return copy.deepcopy(again)  # a scorer that changed its entry would make rewards depend on the order

    def judge(example: Example, text: str) -> float:
        return data.score_answer(final_answer(text), entry(example))

    judge(_example(data[0], 0), str(data[0]["answer"]))  # imports what is imported on first use
    return judge


def final_answer(text: str) -> str:
    """Inside the last `<answer>` or `\\boxed{}` behind the reply's thoughts where there is one, else all of it."""
    reply = text.rpartition("</think>")[2]
    tagged = last_tagged(reply)
    inside = last_boxed(reply if tagged is None else tagged)
    return next((found for found in (inside, tagged) if found is not None), reply.strip())


def canonical(example: Example, text: str) -> str | None:
    """The final answer with single blanks."""
    del example
    return " ".join(final_answer(text).split()) or None


def _open(name: str, **config: Any) -> Any:
    try:
        import reasoning_gym as library
        from reasoning_gym.factory import DATASETS
    except ImportError as error:
        raise ImportError("reasoning_gym needs its library: pip install 'entjax[tasks]'.") from error
    if name not in DATASETS:
        import difflib

        near = difflib.get_close_matches(name, DATASETS, n=3)
        raise ValueError(f"reasoning-gym has no data set {name!r}; near names: {', '.join(near) or 'none'}.")
    try:
        return library.create_dataset(name, **config)
    except (TypeError, AssertionError) as error:
        raise ValueError(
            f"reasoning_gym({name!r}): the configuration {config} was refused: {error}"
        ) from error


def _example(entry: dict[str, Any], index: int) -> Example:
    """The entry travels with the example where it is plain data; a worker makes it again from the index
    elsewhere.

    Making it again is second best: some data sets of the library iterate over sets of strings, whose order
    differs from process to process.
    """
    answer = entry["answer"]
    try:
        meta = {"index": index, "entry": pack(dict(entry))}
    except TypeError:
        meta = {"index": index}
    return Example(entry["question"], answer if answer is None else str(answer), meta)


def pack(value: Any) -> Any:
    """Plain data as JSON that keeps tuples and keys that are no strings: a container is a list that begins
    with its kind. TypeError for anything else.
    """
    if value is None or type(value) in (str, int, float, bool):
        return value
    if type(value) in (list, tuple):
        return [type(value).__name__, *map(pack, value)]
    if type(value) is dict:
        return ["dict", *([pack(key), pack(inner)] for key, inner in value.items())]
    raise TypeError(f"{type(value).__name__} is not plain data")


def unpack(value: Any) -> Any:
    """The inverse of `pack`."""
    if not isinstance(value, list):
        return value
    kind, *items = value
    if kind == "dict":
        return {unpack(key): unpack(inner) for key, inner in items}
    return tuple(map(unpack, items)) if kind == "tuple" else [unpack(item) for item in items]
