"""Rewards for the form of a text, on the host: tags in their places, tags counted, repetition.

Each returns a function (example, text) -> float in [0, 1] of linear cost; texts are cut at `max_chars` first. Nothing here
matches patterns that could backtrack.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

MAX_CHARS = 100_000
TextReward = Callable[[Any, str], float]


def tag_format(tags: Sequence[str] = ("think", "answer"), *, max_chars: int = MAX_CHARS) -> TextReward:
    """1 iff the text is <a>...</a> <b>...</b> for the tags in order, each exactly once, nothing but white space around."""
    _check(tags, max_chars)
    marks = [mark for tag in tags for mark in (f"<{tag}>", f"</{tag}>")]

    def reward(example: Any, text: str) -> float:
        text = text[:max_chars].strip()
        if any(text.count(mark) != 1 for mark in marks) or not text.endswith(marks[-1]):
            return 0.0
        end = 0
        for number, mark in enumerate(marks):
            at = text.find(mark, end)
            if at < 0 or (number % 2 == 0 and text[end:at].strip()):
                return 0.0
            end = at + len(mark)
        return 1.0

    return reward


def tag_count(tags: Sequence[str] = ("think", "answer"), *, max_chars: int = MAX_CHARS) -> TextReward:
    """The share of opening and closing tags that occur exactly once: a denser signal than `tag_format`."""
    _check(tags, max_chars)
    marks = [mark for tag in tags for mark in (f"<{tag}>", f"</{tag}>")]

    def reward(example: Any, text: str) -> float:
        text = text[:max_chars]
        return sum(text.count(mark) == 1 for mark in marks) / len(marks)

    return reward


def distinct_ngrams(n: int = 4, *, max_chars: int = MAX_CHARS) -> TextReward:
    """The share of word n-grams that are distinct: 1 without repetition, towards 0 for a loop; 1 for a text below n words."""
    if n < 1:
        raise ValueError(f"n must be >= 1, got {n}.")
    _check(("-",), max_chars)

    def reward(example: Any, text: str) -> float:
        words = text[:max_chars].split()
        grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
        return len(set(grams)) / len(grams) if grams else 1.0

    return reward


def copies(question: str, answer: str, *, threshold: float = 0.8, max_words: int = 1000) -> bool:
    """Does the answer only repeat the question: contained in it, or more than `threshold` of its words in the question's order
    (ROUGE-L precision)? Words are compared without the punctuation around them. An empty answer copies nothing."""
    words, source = _words(answer, max_words), _words(question, max_words)
    if not words:
        return False
    if f" {' '.join(words)} " in f" {' '.join(source)} ":
        return True
    row = [0] * (len(source) + 1)  # longest common subsequences with the words so far
    for word in words:
        before = row
        row = [0]
        for i, other in enumerate(source):
            row.append(before[i] + 1 if word == other else max(before[i + 1], row[i]))
    return row[-1] / len(words) > threshold


def weighted(*parts: tuple[float, TextReward]) -> TextReward:
    """The weighted mean of rewards. Of a task that is judged in this process (number_words, countdown, arithmetic):

        task._replace(verify=weighted((0.9, task.verify), (0.1, tag_format())))

    Of one that is judged in worker processes, in a module beside the config, say my_verifier.py,

        from entjax.rewards.text import tag_format, weighted
        from entjax.tasks.math_words import symbolic

        def both():
            return weighted((0.9, symbolic()), (0.1, tag_format()))

    and in the config task._replace(verifier=ej.tasks.Spec("my_verifier:both")).
    """
    total = sum(weight for weight, _ in parts)
    if not parts or any(weight < 0 for weight, _ in parts) or not total > 0:
        raise ValueError(f"weighted() needs weights >= 0 with a positive sum, got {[w for w, _ in parts]}.")
    return lambda example, text: sum(weight * part(example, text) for weight, part in parts) / total


def _words(text: str, most: int) -> list[str]:
    words = (word.strip(".,;:!?") for word in text.lower().split(maxsplit=most)[:most])
    return [word for word in words if word]


def _check(tags: Sequence[str], max_chars: int) -> None:
    if not tags or isinstance(tags, str) or not all(tags):
        raise ValueError(f"tags must be a sequence of names, got {tags!r}.")
    if max_chars < 1:
        raise ValueError(f"max_chars must be >= 1, got {max_chars}.")
