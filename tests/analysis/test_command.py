"""`entjax analyze` on a run made for it: its numbers are the run's own evaluations, and what is missing is said."""

import json
import shutil

import pytest

from entjax.cli import main

CONFIG = """
import entjax as ej

def get_config():
    return ej.Config(
        task=ej.tasks.countdown(numbers=3), model=str(ej.config.shipped_configs() / "countdown3"), steps=2, prompts=2, samples=8,
        max_new_tokens=19, lr=5e-5, eval_prompts=4, eval_samples=4, eval_k=(1, 2, 4), eval_every=0,
    )
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    (folder / "config.py").write_text(CONFIG)
    assert main(["--traceback", "train", str(folder / "config.py"), "--workdir", str(folder / "run")]) == 0
    return folder / "run"


def test_the_report_agrees_with_the_runs_own_evaluations(run, capsys):
    flags = ["--prompts", "4", "--samples", "4", "--updates", "1", "--cross"]
    assert main(["--traceback", "analyze", str(run), *flags]) == 0
    assert "report.md" in capsys.readouterr().out
    found = json.loads((run / "analysis" / "report.json").read_text())
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    first, last = lines[0], lines[-1]
    passes = found["pass@k and capability boundary"]
    assert passes["base"] == pytest.approx(
        [first[f"eval/pass@{k}"] for k in (1, 2, 4)]
    )  # same prompts, same keys
    assert passes["tuned"] == pytest.approx([last[f"eval/pass@{k}"] for k in (1, 2, 4)])
    assert passes["only_base"] + passes["only_tuned"] + passes["both"] + passes["neither"] == 4
    cross = found["Cross-sampling"]
    assert cross["base"]["replaced"] == cross["tuned"]["replaced"] == 0
    js = found["Divergence of base and tuned policy"]
    assert 0 < js["js"] < js["reverse_kl"] and 0 <= js["switched"] <= 1
    update = found["Covariance and predicted entropy change"]
    assert update["step taken"]["predicted"] == pytest.approx(update["measured"][0], rel=0.5, abs=2e-3)
    text = (run / "analysis" / "report.md").read_text()
    assert "the checkpoint of step 0" in text and "Not made" not in text
    assert all(
        (run / "analysis" / name).stat().st_size > 5_000
        for name in ("law.png", "passk.png", "tokens.png", "divergence.png")
    )


def test_what_is_missing_is_said(run, tmp_path, capsys):
    assert main(["analyze", str(tmp_path)]) == 2
    assert "has no metrics.jsonl" in capsys.readouterr().err
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "metrics.jsonl").write_text((run / "metrics.jsonl").read_text())
    assert main(["analyze", str(bare)]) == 0
    assert "has no config.py" in (bare / "analysis" / "report.md").read_text()
    (bare / "config.py").write_text((run / "config.py").read_text())
    assert main(["analyze", str(bare)]) == 0
    assert "holds no checkpoint yet" in (bare / "analysis" / "report.md").read_text()
    shutil.copytree(run / "checkpoints", bare / "checkpoints", dirs_exist_ok=True)
    for path in sorted((bare / "checkpoints").iterdir())[-1].rglob("*"):
        if path.is_file() and path.stat().st_size > 100:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    capsys.readouterr()
    small = ["--prompts", "2", "--samples", "2", "--updates", "0"]
    assert main(["analyze", str(bare), *small]) == 0
    assert "is passed over" in capsys.readouterr().err
    assert "Tuned: the checkpoint of step 0" in (bare / "analysis" / "report.md").read_text()
    (bare / "metrics.jsonl").write_text("")
    assert main(["analyze", str(bare), *small]) == 0
    assert "a law needs at least two" in (bare / "analysis" / "report.md").read_text()
