"""docs/rollouts.md: its table is today's, its code runs as printed."""

import inspect
import re

import numpy as np
import pytest

from entjax import rollouts
from entjax.rollouts import Strategy, page
from tests.rollouts import world


def blocks():
    return re.findall(r"```python\n(.*?)```", page.docs_page().read_text(), re.S)


def test_the_table_is_current():
    text = page.docs_page().read_text()
    assert text == page.with_table(text), "run: python -m entjax.rollouts.page"


def test_every_strategy_is_in_the_table():
    makers = {
        name
        for name, f in vars(rollouts).items()
        if inspect.isfunction(f) and str(inspect.signature(f).return_annotation) == "Strategy"
    }
    assert makers - {"stateless", "as_strategy"} == {make.__name__ for make, _, _ in page.known()}
    assert all(isinstance(strategy, Strategy) for _, strategy, _ in page.known())


@pytest.mark.parametrize("text", blocks()[:-1], ids=["config", "environment", "distillation"])
def test_the_examples_run(text):
    exec(compile(text, "rollouts.md", "exec"), {})


def test_the_strategy_in_thirty_lines_works():
    text = blocks()[-1]
    assert len([line for line in text.splitlines() if line.strip()]) <= 30
    names = {}
    exec(compile(text, "rollouts.md", "exec"), names)
    strategy = names["second_attempts"]()
    assert world.config(strategy=strategy).rows == 2 * 4 * world.SAMPLES
    harvest = world.collect(strategy)
    world.check(harvest, samples=2 * world.SAMPLES)
    c, n = harvest.completions, 4 * world.SAMPLES
    middle = (c.prompt_length[:n] + c.length[:n]) // 2
    for row in range(n):
        np.testing.assert_array_equal(c.tokens[row, : middle[row]], c.tokens[n + row, : middle[row]])
        assert np.flatnonzero(c.mask[n + row])[0] == middle[row]
    assert 0.6 < harvest.metrics["sampling/computed_share"] < 0.9
