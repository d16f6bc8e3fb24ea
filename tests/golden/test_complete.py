"""Every family of golden numbers has a test that consumes it; what waits for other work is listed by name."""

import re
from pathlib import Path

from tests.golden.harness import arrays, families, metas

PENDING = {}  # family: what it waits for
ELSEWHERE = {"eval_passk": "tests/analysis/test_passk.py"}


def consumed():
    """The families named by @golden(...) in this folder, constants such as @golden(*NAMES) included."""
    found = set()
    for path in Path(__file__).parent.glob("test_*.py"):
        text = path.read_text()
        for call in re.findall(r"@golden\((.*?)\)\n", text, re.S):
            found |= set(re.findall(r'"(\w+)"', call))
    root = Path(__file__).parent.parent.parent
    return found | {family for family, path in ELSEWHERE.items() if family in (root / path).read_text()}


def test_every_family_is_consumed():
    missing = set(families()) - consumed() - set(PENDING)
    assert not missing, f"no test consumes {sorted(missing)}"
    done = set(PENDING) & consumed()
    assert not done, f"{sorted(done)} have a consumer now: take them off the list of pending families"


def test_every_family_has_cases():
    for family in families():
        assert arrays(family), f"{family} has a description but no numbers"
        written = metas(family).get("cases_written", [])
        assert set(written) <= set(arrays(family)), f"{family}: cases are missing"
