"""The README's code runs as printed."""

import re
from pathlib import Path

import jax
import optax

import entjax as ej
from tests import tiny

ROOT = Path(__file__).parent.parent


def test_the_example_runs():
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    names = {"model": tiny.model(), "rollout": tiny.rollout(), "key": jax.random.key(0), "optax": optax}
    exec(compile(blocks[0], "README.md", "exec"), names)
    assert int(names["state"].step) == 1
    assert [p.name for p in ej.recipes.steer().per_step.parts] == ["asymmetric", "steer", "token_mean"]
    assert names["metrics"]["update/skipped"] == 0


def test_pictures_and_pages_exist():
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} points to {target}, which does not exist"
