"""The study itself, small: two arms, ten steps; what is there is not run again, what is locked is left alone."""

import fcntl
import json
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

from entjax.studies import cells, grid, run

SMALL = "--arms=grpo,entropy_budget --seeds=1 --steps=10 --prompts=2 --samples=8 --eval-prompts=8"


def test_smoke(tmp_path, capsys):
    places = ["--root", str(tmp_path / "runs"), "--docs", str(tmp_path / "docs")]
    command = [sys.executable, "-m", "entjax.studies.run", *SMALL.split(), *places]
    told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600).stdout
    assert told.count("easy-grpo-w0-s0: ") == 1 and told.count("easy-entropy_budget-w0-s0: ") == 1
    found = json.loads((tmp_path / "docs" / "study.json").read_text())["runs"]
    assert [(r["arm"], len(r["entropy"]), r["evaluations"][-1]["step"]) for r in found] == [
        ("entropy_budget", 10, 10),
        ("grpo", 10, 10),
    ]
    assert found[0]["reward"][0] == found[1]["reward"][0]  # the same warm start and the same first rollout
    assert found[0]["evaluations"][0] == found[1]["evaluations"][0]
    assert "| grpo | 1 |" in (tmp_path / "docs" / "study.md").read_text()

    shutil.rmtree(tmp_path / "runs")  # what the file holds is not run again
    cache = jax.config.jax_compilation_cache_dir
    run.main([*SMALL.split(), *places])
    jax.config.update("jax_compilation_cache_dir", cache)
    assert "2 results" in capsys.readouterr().out and not (tmp_path / "runs" / "cells").exists()


def test_a_cell_that_another_process_works_on_is_left_alone(tmp_path):
    easy = grid.settings()["easy"]
    cell = cells.Cell(easy, "grpo", grid.Arm("grpo"), 0, 0)
    study = cells.Study(tmp_path, cells.Size())
    study.folder(cell).mkdir(parents=True)
    with (study.folder(cell) / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert not study.run(cell)
    assert [path.name for path in study.folder(cell).iterdir()] == [".lock"]


def test_two_processes_may_write_the_same_warm_start(tmp_path, monkeypatch):
    quick = grid.settings()["hard"]._replace(sft_steps=1)
    study, save = cells.Study(tmp_path, cells.Size()), cells.save_hf

    def late(folder, model, **how):
        """The other one is done while this one writes."""
        save(folder, model, **how)
        if not (tmp_path / "warm" / "hard-1").exists():
            shutil.copytree(folder, tmp_path / "warm" / "hard-1")

    monkeypatch.setattr(cells, "save_hf", late)
    made = study.warm_start(quick, 1)
    assert made == str(tmp_path / "warm" / "hard-1") == study.warm_start(quick, 1)
    assert sorted(path.name for path in (tmp_path / "warm").iterdir()) == ["hard-1", "hard-1-run"]


def test_every_recipe_is_an_arm_and_every_setting_has_a_config():
    arms = grid.arms(100, 0.18)
    assert set(grid.FIRST) <= set(arms)
    pytest.importorskip("reasoning_gym")  # two settings are its data sets
    for setting in grid.settings().values():
        config = setting.config(arms["grpo"], "folder", **cells.Size()._asdict())
        example = config.task.example(3)
        assert len(example.prompt) + config.max_new_tokens <= setting.context
        assert set(example.prompt) <= set(config.task.alphabet or "")
        assert len(setting.warm_config(1).task.alphabet or "") + 2 == setting.vocab


def test_an_arm_that_decays_meets_its_line():
    easy = grid.settings()["easy"]
    options = easy.config(
        grid.arms(100, 0.18)["entropic_decay"], "", **cells.Size(steps=100)._asdict()
    ).recipe_options
    np.testing.assert_allclose(
        [options["target"](n) for n in (0, 100, 200)], [0.23, 0.18, 0.13]
    )  # two updates a step
    band = grid.arms(100, 0.18)["entrocraft_decay"].options
    assert (
        band["start"] < 0.23 < band["start"] + band["width"]
        and band["end"] < 0.13 < band["end"] + band["width"]
    )


def test_an_arm_is_compiled_once_for_all_its_seeds():
    found = run.plan(run.parser().parse_args(["--arms=all", "--seeds=3", "--settings=easy,hard"]))
    programs = [(cell.setting.name, cell.arm_name) for cell in found]
    assert len({cell.name for cell in found}) == len(found) == 3 * len(set(programs))
    for program in set(programs):
        first, last = programs.index(program), len(programs) - 1 - programs[::-1].index(program)
        assert len(set(programs[first : last + 1])) <= cells.COMPILED
