"""The wheel holds what the command line needs, and the project holds nothing that it must not."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--quiet",
        "--wheel-dir",
        str(folder),
        str(ROOT),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode and "setuptools" in done.stderr and "find" in done.stderr:
        pytest.skip("building a wheel needs setuptools from the package index")
    assert done.returncode == 0, done.stderr[-2000:]
    return zipfile.ZipFile(next(folder.glob("*.whl")))


def test_the_wheel_is_complete(wheel):
    names = set(wheel.namelist())
    listing = subprocess.run(
        ["git", "ls-files", "entjax", "configs", "launch"], cwd=ROOT, capture_output=True, text=True
    )
    tracked = listing.stdout.split()
    for path in tracked:
        inside = path if path.startswith("entjax/") else f"entjax/{path}"
        assert inside in names or Path(path).name.startswith("."), f"{path} is missing from the wheel"
    assert not [n for n in names if n.startswith(("tests/", "notebooks/"))]


def test_nothing_is_loaded_by_pickle():
    pattern = re.compile(
        r"\b(import pickle|from pickle|pickle\.load|allow_pickle=True|torch\.load|joblib|cloudpickle|\bdill\b)"
    )
    for path in [
        *ROOT.glob("entjax/**/*.py"),
        *ROOT.glob("configs/**/*.py"),
        *ROOT.glob("benchmarks/**/*.py"),
    ]:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            assert not pattern.search(line), f"{path.name}:{number}: {line.strip()}"


def test_method_files_are_short():
    for room in ("advantages", "weights", "clips", "regularizers", "averages", "rewards"):
        for path in (ROOT / "entjax" / room).glob("*.py"):
            assert len(path.read_text().splitlines()) <= 120, (
                f"{path.relative_to(ROOT)} is longer than 120 lines"
            )
