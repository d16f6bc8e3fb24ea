"""Math problems in a JSON-lines file, for configs that are also read where the file is not: then the run says what to fetch."""

from __future__ import annotations

from pathlib import Path

from entjax.tasks.absent import absent
from entjax.tasks.math_words import math_words
from entjax.tasks.task import Task


def math_file(path: str | Path, advice: str, *, prompt: str = "prompt", answer: str = "answer") -> Task:
    """The problems in `path`, judged as formulas; without the file a task that stops with `advice` when a run begins."""
    from entjax.data import jsonl  # entjax.data imports entjax.tasks

    path = Path(path)
    if not path.is_file():
        return absent(path.stem, f"{path} is missing. {advice}")
    return math_words(jsonl(path, prompt=prompt, answer=answer), name=path.stem)
