"""The page of a run before and after: its numbers are the run's own, and each accuracy is of the answers that it names."""

import json
import random
from pathlib import Path

import pytest

import entjax as ej
from entjax.studies import before_after

LINES = [
    {"step": 0, "eval/pass@1": 0.25, "eval/entropy": 1.5},
    {"step": 1, "entropy/mean": 1.4, "reward/mean": 0.5, "time/rollout": 30.0, "time/update": 60.0},
    {"step": 1, "eval/pass@1": 0.75, "eval/entropy": 1.2},
]


@pytest.fixture(scope="module")
def parts():
    made = ej.setup.build(
        ej.config.load_config("quickstart.py").override(
            {"eval_prompts": 4, "eval_samples": 2, "eval_k": (1,)}
        )
    )
    yield made
    made.close()


def test_accuracies_are_of_their_answers(parts, monkeypatch, tmp_path):
    solution = lambda e: parts.config.task.solution(e, random.Random(0))
    given = [solution(e) for e in parts.eval_examples[:3]] + ["nonsense"]
    monkeypatch.setattr(before_after, "their_answers", lambda parts, folder: given)
    found = before_after.gather(parts, parts.fresh_state().params, tmp_path, LINES)
    assert found["transformers"] == 0.75
    assert found["greedy"]["before"] == found["greedy"]["after"]  # the same parameters
    shown = found["answers"]
    assert found["greedy"]["after"] == sum(a["right_after"] for a in shown) / 4
    assert all(a["right_after"] == (parts.scorer.score([e], [a["after"]])[0][0] >= 1)
               for e, a in zip(parts.eval_examples, shown, strict=True))  # fmt: skip
    text = before_after.page("small", "command", parts, json.loads(json.dumps(found)))
    assert "| 0 | 0.250 | 1.500 |" in text and "75.0%, and" in text and "2 minutes" in text
    before_after.picture(found, Path(tmp_path) / "x.png")
    assert (tmp_path / "x.png").stat().st_size > 5_000
