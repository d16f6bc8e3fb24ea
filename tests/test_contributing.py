"""CONTRIBUTING.md's "add a method in 4 steps", followed literally in a temporary copy of the places that it names."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_add_a_method_in_four_steps(tmp_path):
    for name in ("entjax", "tests"):
        shutil.copytree(
            ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("data", "__pycache__", "launch")
        )
    blocks = re.findall(r"```python\n# (\S+)\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.S)
    assert [name for name, _ in blocks] == [
        "entjax/weights/surprise.py",
        "tests/contract/rows_surprise.py",
        "tests/weights/test_surprise.py",
        "surprise_config.py",
    ]
    for name, text in blocks:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    for path in (tmp_path / "tests" / "contract").glob("rows_*.py"):
        if path.stem != "rows_surprise":
            path.unlink()

    def run(*command):
        environment = {**os.environ, "PYTHONPATH": str(tmp_path), "JAX_PLATFORMS": "cpu"}
        options = {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True, "timeout": 600}
        done = subprocess.run([sys.executable, *command], **options)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    shutil.copy(ROOT / "setup.cfg", tmp_path)
    assert "passed" in run(
        "-m", "pytest", "tests/contract/test_contract.py", "tests/weights/test_surprise.py"
    )
    assert "eval/pass@1" in run("-m", "entjax", "train", "surprise_config.py")
    assert (tmp_path / "runs" / "surprise_config" / "metrics.jsonl").exists()
