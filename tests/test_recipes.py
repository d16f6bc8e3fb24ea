"""Recipes: each builds without complaint, traces through a whole step, is told by `entjax methods`; slow: each trains."""

import warnings

import jax
import optax
import pytest

import entjax as ej
from entjax import cli, methods
from entjax.learning import recipe, recipe_names
from entjax.recipes.distillation import DISTILLATION
from tests import tiny
from tests.contract.table import inputs

NAMES = recipe_names()


@pytest.mark.parametrize("name", NAMES)
def test_builds_and_traces(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        objective = recipe(name, {})
    model, optimizer, rollout = tiny.model(), optax.sgd(0.1), tiny.rollout()
    needs = objective.needs - {"ref_logp"}
    rollout = rollout.replace(extra=inputs(rollout, sorted(needs)))
    state = ej.init_train_state(model, objective, optimizer, jax.random.key(0))
    score, step = ej.make_score(model, objective), ej.make_train_step(model, objective, optimizer)
    scored = jax.eval_shape(score, state, rollout)
    after, metrics = jax.eval_shape(step, state, scored)
    # A weak type that turns strong would compile the step a second time.
    kinds = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype, getattr(x, "weak_type", False)), tree)
    assert kinds(after) == kinds(state)
    assert all(x.shape == () for x in metrics.values())
    assert {"loss", "entropy/mean", "grad_norm"} <= metrics.keys()


@pytest.mark.parametrize("name", NAMES)
def test_is_described(name):
    m = methods.method(name)
    assert m.title and m.paper and m.what.endswith(".") and m.evidence != "-", (
        f"recipes.{name}: title, paper, what, Evidence"
    )
    assert m.places or name == "reinforce"
    text = methods.describe(name)
    assert all(part.name in text for part in m.objective.parts)


def test_the_page_is_current():
    assert methods.docs_page().read_text() == methods.page(), (
        "run: python -m entjax.methods > docs/methods.md"
    )


def test_unknown_names_get_a_suggestion(capsys):
    assert cli.main(["methods", "steeer"]) == 2
    assert "did you mean 'steer'" in capsys.readouterr().err
    assert cli.main(["methods", "group_normalize"]) == 0
    assert "used by: grpo" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_trains_the_quickstart(name, tmp_path):
    from entjax.config import shipped_configs
    from entjax.log import read_lines

    if name in DISTILLATION:
        pytest.skip("needs a teacher: tests/sft/test_in_runs.py")
    sizes = ["steps=3", "prompts=8", "samples=8", "eval_prompts=8", "eval_every=0"]
    config = str(shipped_configs() / "quickstart.py")
    assert cli.main(["train", config, f"recipe={name}", *sizes, "--workdir", str(tmp_path / "run")]) == 0
    records = read_lines(tmp_path / "run" / "metrics.jsonl")
    assert [r["update/skipped"] for r in records if "update/skipped" in r] == [0.0] * 3
