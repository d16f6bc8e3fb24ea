"""Rows of JSONL and parquet files and of tensorflow-datasets as examples, checked before a run begins.

`prompt` and `answer` name the columns; the columns of `meta` are kept beside them. A prompt is a text, or the one message of a
user. A row that cannot be used is named by its number (counted from 1, as editors count lines) in the error.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import date, time
from pathlib import Path
from typing import Any, NamedTuple

from entjax.tasks.task import Example

MAX_CHARS = 100_000


class Columns(NamedTuple):
    """Which columns become the example; `answer=None` for prompts without a known answer."""

    prompt: str
    answer: str | None
    meta: tuple[str, ...] = ()
    max_chars: int = MAX_CHARS


def _columns(prompt: str, answer: str | None, meta: str | Sequence[str], max_chars: int) -> Columns:
    return Columns(prompt, answer, (meta,) if isinstance(meta, str) else tuple(meta), max_chars)


class Rows(Sequence[Example]):
    """Examples by index, with the name by which a checkpoint recognises the data set."""

    def __init__(self, name: str, size: int, read: Callable[[int], Example]):
        self.name = name
        self._size = size
        self._read = read

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < self._size:
            raise IndexError(f"{self.name} has {self._size} rows; there is no row {index}.")
        return self._read(index)


def jsonl(
    path: str | Path,
    *,
    prompt: str = "prompt",
    answer: str | None = "answer",
    meta: str | Sequence[str] = (),
    max_chars: int = MAX_CHARS,
) -> Rows:
    """A file with one JSON object a line, as data sets from Hugging Face are often written. Blank lines are
    skipped.
    """
    columns = _columns(prompt, answer, meta, max_chars)
    return _in_memory(_existing(path), _json_rows(Path(path)), columns)


def parquet(
    path: str | Path,
    *,
    prompt: str = "prompt",
    answer: str | None = "answer",
    meta: str | Sequence[str] = (),
    max_chars: int = MAX_CHARS,
) -> Rows:
    """A parquet file, of which only the named columns are read."""
    try:
        from pyarrow import ArrowInvalid
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise ImportError("Parquet files need pyarrow: pip install 'entjax[tasks]'.") from error
    columns = _columns(prompt, answer, meta, max_chars)
    name = _existing(path)
    try:
        file = ParquetFile(path)
    except ArrowInvalid as error:
        raise ValueError(f"{name} is not a readable parquet file: {error}") from error
    _check_names(name, columns, file.schema_arrow.names)
    return _in_memory(name, _parquet_rows(name, file.iter_batches(columns=_wanted(columns))), columns)


def tfds(
    folder: str | Path,
    split: str = "train",
    *,
    prompt: str = "prompt",
    answer: str | None = "answer",
    meta: str | Sequence[str] = (),
    max_chars: int = MAX_CHARS,
) -> Rows:
    """A data set that tensorflow-datasets prepared in `folder` as array_record files: random access, without
    tensorflow.

    The columns are checked at once, the rows when they are read, as such data sets may be large.
    """
    try:
        import tensorflow_datasets
    except ImportError as error:
        raise ImportError("tfds needs tensorflow-datasets: pip install 'entjax[tasks]'.") from error
    name = _existing(folder)
    builder = tensorflow_datasets.builder_from_directory(str(folder))
    if split not in builder.info.splits:
        raise ValueError(f"{name} has no split {split!r}; it has {', '.join(builder.info.splits)}.")
    columns = _columns(prompt, answer, meta, max_chars)
    _check_names(name, columns, list(builder.info.features))
    data = builder.as_data_source(split)
    if len(data) == 0:
        raise ValueError(f"{name}, split {split}, is empty: there is nothing to train on.")

    def read(index: int) -> Example:
        row = {key: _plain(value) for key, value in data[index].items()}
        return _example(name, index + 1, row, columns)

    read(0)
    return Rows(f"{name}/{split}", len(data), read)


def _in_memory(name: str, rows: Iterable[tuple[int, Any]], columns: Columns) -> Rows:
    """Every row is checked now: a bad one is found before the first step, not in the middle of a night."""
    examples = [_example(name, number, row, columns) for number, row in rows]
    if not examples:
        raise ValueError(f"{name} is empty: there is nothing to train on.")
    return Rows(name, len(examples), examples.__getitem__)


def _json_rows(path: Path) -> Iterator[tuple[int, Any]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield number, _json_row(path, number, line)


def _json_row(path: Path, number: int, line: bytes) -> Any:
    try:
        return json.loads(line.decode("utf-8-sig"))  # editors put a mark before the first line
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path.name}, row {number}, is not UTF-8 text: {error}. Is the file compressed or binary?"
        ) from error
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(
            f"{path.name}, row {number}, is not JSON ({error}): one object a line is expected."
        ) from error


def _parquet_rows(name: str, batches: Iterable[Any]) -> Iterator[tuple[int, Any]]:
    number = 0
    try:
        for part in batches:
            for row in _part_rows(part):
                number += 1
                yield number, row
    except UnicodeDecodeError as error:
        raise ValueError(f"{name}, row {number + 1}, is not UTF-8 text: {error}.") from error


def _part_rows(part: Any) -> Iterable[Any]:
    try:
        return part.to_pylist()
    except UnicodeDecodeError:  # one by one, up to the row that it is in
        return (part.slice(i, 1).to_pylist()[0] for i in range(part.num_rows))


def _example(name: str, number: int, row: Any, columns: Columns) -> Example:
    where = f"{name}, row {number}"
    if not isinstance(row, dict):
        raise ValueError(f"{where}, is a {type(row).__name__}, not an object with columns.")
    _check_names(where, columns, list(row))
    prompt = _question(where, columns.prompt, row[columns.prompt])
    if not isinstance(prompt, str) or not prompt.strip():
        shown = "empty" if isinstance(prompt, str) else f"a {type(prompt).__name__}, not a text"
        raise ValueError(f"{where}: the prompt (column {columns.prompt!r}) is {shown}.")
    answer = None if columns.answer is None else row[columns.answer]
    if columns.answer is not None and (not isinstance(answer, str | int | float) or answer == ""):
        shown = "empty" if answer == "" else f"a {type(answer).__name__}, not a text or number"
        raise ValueError(
            f"{where}: the answer (column {columns.answer!r}) is {shown}. For a verifier that needs none: answer=None,"
            f" meta=({columns.answer!r},)."
        )
    answer = answer if answer is None else str(answer)
    for what, text in (("prompt", prompt), ("answer", answer or "")):
        if any("\ud800" <= char <= "\udfff" for char in text):
            raise ValueError(
                f"{where}: the {what} holds half of a surrogate pair, which is not valid UTF-8: mend it."
            )
        if len(text) > columns.max_chars:
            raise ValueError(
                f"{where}: the {what} has {len(text)} characters, over the limit of {columns.max_chars}."
            )
    return Example(prompt, answer, {key: _json(where, key, row[key]) for key in columns.meta})


def _question(where: str, column: str, value: Any) -> Any:
    """A prompt as it is, or the text of a conversation that one message of a user is all of, as chat data sets write it."""
    if not (isinstance(value, list) and value and all(isinstance(m, dict) and "role" in m for m in value)):
        return value
    if [m["role"] for m in value] != ["user"]:
        roles = ", ".join(str(m["role"])[:20] for m in value[:6])
        raise ValueError(
            f"{where}: the prompt (column {column!r}) is a conversation ({roles}); what can be asked is one message of a user."
            " A system message goes into the config, system=TEXT; write earlier turns into the prompt."
        )
    return value[0].get("content")


def _json(where: str, column: str, value: Any) -> Any:
    """The value as a worker process will see it: plain JSON, dates and times as ISO text."""

    def iso(value: Any) -> str:
        if isinstance(value, date | time):
            return value.isoformat()
        raise TypeError(f"a {type(value).__name__}")

    try:
        return json.loads(json.dumps(value, default=iso))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{where}: the column {column!r} holds what JSON cannot write ({error}): make it a text or number,"
            " or leave it out of meta."
        ) from error


def _check_names(where: str, columns: Columns, names: Sequence[str]) -> None:
    missing = [column for column in _wanted(columns) if column not in names]
    if missing:
        raise ValueError(
            f"{where}, has no column {missing[0]!r}; it has {', '.join(map(str, names)) or 'none'}."
            " Name yours as an argument."
        )


def _wanted(columns: Columns) -> list[str]:
    return [columns.prompt, *([] if columns.answer is None else [columns.answer]), *columns.meta]


def _existing(path: str | Path) -> str:
    if not Path(path).exists():
        raise FileNotFoundError(f"There is no data set at {path}.")
    return Path(path).name


def _plain(value: Any) -> Any:
    """Values of numpy as Python's: texts arrive as bytes, numbers as scalars of numpy."""
    if isinstance(value, bytes):
        return value.decode("utf-8")
    return value.tolist() if callable(getattr(value, "tolist", None)) else value
