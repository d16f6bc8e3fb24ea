"""A task whose data is not on this machine: a config that names it can be read and compiled, and a run says what to fetch."""

from __future__ import annotations

from entjax.tasks.task import Example, Task


def absent(name: str, advice: str) -> Task:
    """A task of this name that stops with `advice` as soon as an example is asked for."""

    def example(index: int) -> Example:
        raise FileNotFoundError(f"The data of {name} is not here: {advice}")

    return Task(name, example, None, lambda example, text: 0.0)
