"""From a config to the parts of a run: which task trains, which one is evaluated, and by whom each is judged."""

import dataclasses
import sys
from pathlib import Path

import pytest

import entjax as ej
from entjax import setup
from entjax.rundir import RunDirectory, RunDirectoryError
from entjax.tasks import Example, Task
from tests.rollouts import world


def numbered(name, size, right):
    """Prompts 1+0 .. 1+9; `right` says which reward every answer gets."""
    return Task(name, lambda i: Example(f"1+{i % 10}", str(i), {"n": i}), size, lambda example, text: right,
                alphabet="0123456789+", canonical=lambda example, text: name)  # fmt: skip


def config(**changes):
    model = ej.models.tiny(vocab=19, width=16, layers=1, heads=2, context=96)
    return world.config(**{"model": model, "task": numbered("train", 10, 0.0), "eval_prompts": 3, **changes})


def test_the_evaluation_is_judged_by_its_own_task():
    parts = setup.build(config(eval_task=numbered("held out", 4, 1.0)))
    texts = ["x"] * 3
    for held_out, reward, name in ((False, 0.0, "train"), (True, 1.0, "held out")):
        tools = parts.tools(None, 0, held_out=held_out)
        assert tools.score(parts.eval_examples, texts)[0].tolist() == [reward] * 3
        assert tools.canonical(parts.eval_examples[0], "x") == name
    parts.close()


@pytest.mark.parametrize(("size", "trained"), [(10, 7), (4, 2), (2, 1)])
def test_the_last_examples_of_a_finite_task_are_not_trained_on(size, trained):
    c = config(task=numbered("train", size, 0.0), prompts=2)
    held_out = {e.meta["n"] for e in setup.eval_examples(c)}
    stream = setup.make_stream(c)
    seen = {e.meta["n"] for _ in range(size) for e in stream.next()}
    assert seen == set(range(trained)) and held_out == set(range(trained, size))


def test_workers_and_seconds_of_the_verifiers_are_the_configs(monkeypatch):
    made = []
    monkeypatch.setattr(setup, "scorer", lambda task, **how: made.append((task.name, how)))
    setup.make_scorers(config(eval_task=numbered("held out", 4, 1.0)))
    setup.make_scorers(config(verifier_workers=3, verifier_seconds=10.0))
    of = lambda workers, *limits: {"workers": workers, "limits": ej.tasks.Limits(*limits)}
    assert made == [("train", of(2)), ("held out", of(2)), ("train", of(3, 10.0, 60.0))]
    assert config(verifier_workers=3, verifier_seconds=10.0).identity() == config().identity()
    for key, value in (("verifier_workers", 0), ("verifier_workers", 10**9), ("verifier_seconds", 1e9)):
        with pytest.raises(ValueError, match=key):
            config(**{key: value})


CONFIG = '''"""A config with a verifier of its own."""

from __future__ import annotations

import my_own_verifier
from tests.test_setup import config, numbered


def get_config():
    task = numbered("own", 4, 0.0)._replace(verify=None, verifier=my_own_verifier.SPEC)
    return config(task=task, eval_prompts=2)
'''
VERIFIER = """from entjax.tasks.task import Spec

SPEC = Spec("my_own_verifier:half")

def half():
    return lambda example, text: 0.5
"""


def test_modules_beside_a_config_are_found_by_it_by_its_workers_and_by_a_run_that_goes_on(
    tmp_path, monkeypatch
):
    own, workdir = tmp_path / "own", tmp_path / "run"
    own.mkdir()
    workdir.mkdir()
    (own / "cfg.py").write_text(CONFIG)
    (own / "my_own_verifier.py").write_text(VERIFIER)

    def rewards(path):
        monkeypatch.setattr(sys, "path", [folder for folder in sys.path if folder != str(own)])
        monkeypatch.delitem(sys.modules, "my_own_verifier", raising=False)
        task = ej.config.load_config(path).task
        with ej.tasks.scorer(task, workers=1) as scorer:
            return scorer.score([task.example(0)], ["x"])[0].tolist()

    assert rewards(own / "cfg.py") == [0.5] and sys.path[-1] == str(own)
    (workdir / "config.py").write_text(ej.config.source_as_run(own / "cfg.py", {"steps": "3"}))
    assert rewards(workdir / "config.py") == [0.5]
    assert ej.config.load_config(workdir / "config.py").steps == 3
    assert ej.config.source_as_run(Path("quickstart.py"), {}).startswith('"""')  # a shipped one, by its name


def test_a_verify_beside_a_verifier_is_refused():
    pooled = numbered("pooled", 4, 1.0)._replace(
        verifier=ej.tasks.Spec("tests.faults.verifier:contains_a_one")
    )
    for where in ("task", "eval_task"):
        with pytest.raises(ValueError, match="pooled has both verify= and verifier="):
            config(**{where: pooled})


def test_a_single_example_cannot_be_both():
    with pytest.raises(ValueError, match="give eval_task"):
        setup.eval_examples(config(task=numbered("train", 1, 0.0)))


def test_a_recipe_on_the_command_line_takes_the_place_of_an_own_objective():
    own = dataclasses.replace(config(), objective=ej.recipes.steer())
    assert own.override({"recipe": "grpo"}).objective is None
    assert own.override({"lr": "1e-3"}).objective is own.objective


def test_what_a_function_took_along_belongs_to_the_identity_of_a_run():
    def of(target, clip, steps=100):
        line = ej.control.linear(target, 0.1, steps)
        bonus = ej.regularizers.entropy(ej.control.pi(target=line, kp=0.1, ki=0.01))
        return config(objective=ej.Objective(None, bonus, ej.surrogates.dual_clip(clip))).identity()

    assert of(0.5, 3.0) == of(0.5, 3.0)
    assert len({of(0.5, 3.0), of(0.8, 3.0), of(0.5, 10.0), of(0.5, 3.0, 50)}) == 4


@pytest.mark.parametrize(("field", "value"), [("strategy", ej.rollouts.cure), ("rules", ej.decoding.top_p)])
def test_a_factory_that_nobody_called_is_told(field, value):
    with pytest.raises(ValueError, match=rf"call it, {field}=ej\.\w+\.{value.__name__}\(\)"):
        config(**{field: value})


def test_a_teacher_keeps_the_rules_of_an_objective():
    objective = ej.recipes.hapo()
    assert objective.rules is not None and objective.taught_by(None).rules is objective.rules


def test_files_are_fetched_by_the_one_who_holds_the_lock(tmp_path):
    fetched = []
    first, second = (RunDirectory(tmp_path, resume=False, fill=lambda n=n: fetched.append(n)) for n in (1, 2))
    with first, pytest.raises(RunDirectoryError, match="Another run"):
        second.__enter__()
    assert fetched == [1]
