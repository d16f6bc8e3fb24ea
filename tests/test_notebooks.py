"""Every notebook runs from top to bottom on tiny sizes, and its saved output belongs to its present text."""

import importlib.util
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SMALL = {
    "01_first_steps": {"STEPS": 2, "PROMPTS": 2, "SAMPLES": 4, "EVAL": 4},
    "02_your_own_method": {"STEPS": 20, "SEEDS": 1},
    "03_collapse_and_the_law": {},
    "04_estimators": {"STATES": 200},
    "05_controllers": {"STEPS": 10, "SEEDS": 1, "ARMS": 1},
    "06_branching_and_decoding": {"PROMPTS": 2, "SAMPLES": 4, "BRANCHES": 2, "RULES": 2},
    "07_smollm2": {},
}


def runner():
    spec = importlib.util.spec_from_file_location("notebooks_run", ROOT / "notebooks" / "run.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", SMALL)
def test_the_notebook_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    written = runner().execute(ROOT / "notebooks" / f"{name}.py", tmp_path, SMALL[name])
    text = written.read_text()
    assert text.startswith("# 0") and text.count("```") % 2 == 0
    assert all(
        (tmp_path / line[line.index("(") + 1 : -1]).is_file()
        for line in text.splitlines()
        if line.startswith("![")
    )


@pytest.mark.parametrize("name", SMALL)
def test_the_saved_output_is_of_this_text(name):
    """Every code cell of the notebook stands in its saved output."""
    saved = (ROOT / "notebooks" / "outputs" / f"{name}.md").read_text()
    text = (ROOT / "notebooks" / f"{name}.py").read_text()
    for cell in text.split("# %%")[1:]:
        if not cell.startswith(" [markdown]"):
            assert cell.strip() in saved


def test_pictures_of_the_study_come_from_committed_results():
    runs = json.loads((ROOT / "docs" / "study.json").read_text())["runs"]
    assert len({run["arm"] for run in runs}) >= 7 and any(run["arm"] == "grpo" for run in runs)
