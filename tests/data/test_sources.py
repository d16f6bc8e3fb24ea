"""Rows of files as examples, and the sentence that each kind of bad file gets."""

import datetime
import gzip
import json

import numpy as np
import pytest

from entjax.data import jsonl, parquet, prompts, tfds
from entjax.tasks import Example

GOOD = [{"prompt": f"p{i}", "answer": f"a{i}", "level": i} for i in range(7)]


def write(path, rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def test_jsonl_rows_become_examples(tmp_path):
    path = write(tmp_path / "x.jsonl", [*GOOD[:2], "", {"prompt": "né", "answer": 0.5, "level": 9}])
    rows = jsonl(path, meta=["level"])
    assert list(rows) == [
        Example("p0", "a0", {"level": 0}),
        Example("p1", "a1", {"level": 1}),
        Example("né", "0.5", {"level": 9}),
    ]
    assert list(jsonl(path, meta="level")) == list(rows)
    assert rows.name == "x.jsonl" and len(prompts(rows, batch=2).next()) == 2
    with pytest.raises(IndexError, match="no row 3"):
        rows[3]


def test_a_mark_before_the_first_line_and_a_message_of_a_user(tmp_path):
    path = tmp_path / "x.jsonl"
    row = {"prompt": [{"role": "user", "content": "2+2?"}], "answer": "4"}
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(row).encode() + b"\n")
    assert list(jsonl(path)) == [Example("2+2?", "4", {})]


@pytest.mark.parametrize(
    "rows,words",
    [
        ([], "x.jsonl is empty"),
        (["", "  "], "x.jsonl is empty"),
        (
            [GOOD[0], {"question": "q", "answer": "a"}],
            r"row 2, has no column 'prompt'; it has question, answer",
        ),
        ([GOOD[0], {"prompt": "q"}], r"row 2, has no column 'answer'"),
        (
            [GOOD[0], "", {"prompt": 3, "answer": "a"}],
            r"row 3: the prompt \(column 'prompt'\) is a int, not a text",
        ),
        ([{"prompt": "  ", "answer": "a"}], "row 1: the prompt .* is empty"),
        ([{"prompt": [{"role": "user", "content": " "}], "answer": "a"}], "row 1: the prompt .* is empty"),
        ([{"prompt": [{"role": "user", "content": None}], "answer": "a"}], "is a NoneType, not a text"),
        (
            [
                {
                    "prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}],
                    "answer": "a",
                }
            ],
            r"row 1: the prompt .* is a conversation \(system, user\).* system=TEXT",
        ),
        ([{"prompt": ["q"], "answer": "a"}], "is a list, not a text"),
        (
            [{"prompt": "q", "answer": ""}],
            r"is empty. For a verifier that needs none: answer=None, meta=\('answer',\)",
        ),
        ([{"prompt": "q", "answer": ["a"]}], "row 1: the answer .* is a list, not a text or number"),
        ([{"prompt": "q", "answer": None}], "row 1: the answer .* is a NoneType"),
        (
            [GOOD[0], {"prompt": "q" * 2000, "answer": "a"}],
            "row 2: the prompt has 2000 characters, over the limit of 1000",
        ),
        ([GOOD[0], "{broken"], "row 2, is not JSON"),
        (["[" * 100_000], "row 1, is not JSON"),
        ([GOOD[0], {"prompt": "q\ud83d", "answer": "a"}], "row 2: the prompt holds half of a surrogate pair"),
        ([{"prompt": "q", "answer": "\udc00"}], "row 1: the answer holds half of a surrogate pair"),
        ([GOOD[0], "[1, 2]"], "row 2, is a list, not an object"),
    ],
)
def test_bad_rows_are_named_by_their_number(tmp_path, rows, words):
    with pytest.raises(ValueError, match=words):
        jsonl(write(tmp_path / "x.jsonl", rows), max_chars=1000)


def test_files_that_are_something_else(tmp_path):
    with pytest.raises(FileNotFoundError, match="no data set at"):
        jsonl(tmp_path / "absent.jsonl")
    packed = tmp_path / "x.jsonl"
    packed.write_bytes(gzip.compress(b'{"prompt": "p"}'))
    with pytest.raises(ValueError, match=r"row 1, is not UTF-8 .* compressed"):
        jsonl(packed)
    packed.write_bytes(b'{"prompt": "p", "answer": "a"}\n{"prompt": "\xff", "answer": "a"}\n')
    with pytest.raises(ValueError, match="row 2, is not UTF-8"):
        jsonl(packed)


def test_parquet_equals_jsonl(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    table = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "x.parquet"
    table.write_table(pyarrow.Table.from_pylist(GOOD), path, row_group_size=3)
    same = jsonl(write(tmp_path / "x.jsonl", GOOD), meta=["level"])
    assert list(parquet(path, meta=["level"])) == list(same)
    with pytest.raises(
        ValueError, match=r"x\.parquet, has no column 'question'; it has prompt, answer, level"
    ):
        parquet(path, prompt="question")
    table.write_table(
        pyarrow.Table.from_pylist([{"prompt": "p", "answer": "a"}, {"prompt": None, "answer": "a"}]), path
    )
    with pytest.raises(ValueError, match="row 2: the prompt"):
        parquet(path)
    table.write_table(pyarrow.Table.from_pylist(GOOD).slice(0, 0), path)
    with pytest.raises(ValueError, match="empty"):
        parquet(path)
    texts = pyarrow.array([b"p", b"q", b"\xff"]).view(pyarrow.string())
    table.write_table(pyarrow.table({"prompt": texts, "answer": ["a"] * 3}), path)
    with pytest.raises(ValueError, match=r"x\.parquet, row 3, is not UTF-8"):
        parquet(path)
    path.write_bytes(b"PAR1 not really")
    with pytest.raises(ValueError, match="not a readable parquet file"):
        parquet(path)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A data set as tensorflow-datasets writes it, built here, without tensorflow."""
    tensorflow_datasets = pytest.importorskip("tensorflow_datasets")

    class Words(tensorflow_datasets.core.GeneratorBasedBuilder):
        VERSION = tensorflow_datasets.core.Version("1.0.0")

        def _info(self):
            features = tensorflow_datasets.features.FeaturesDict(
                {
                    "question": tensorflow_datasets.features.Text(),
                    "answer": tensorflow_datasets.features.Text(),
                    "level": np.int64,
                }
            )
            return tensorflow_datasets.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for i in range(9):
                yield i, {"question": f"é{i}", "answer": f"a{i}", "level": i}

    builder = Words(data_dir=tmp_path_factory.mktemp("tfds"), file_format="array_record")
    builder.download_and_prepare()
    return builder.data_dir


def test_tfds_rows_are_read_at_random_and_resumed(prepared):
    rows = tfds(prepared, prompt="question", meta=["level"])
    assert len(rows) == 9
    for example in rows:
        level = example.meta["level"]
        assert example == Example(f"é{level}", f"a{level}", {"level": level})
    assert rows[4] == rows[4] and len({row.prompt for row in rows}) == 9
    json.dumps(rows[0])
    stream = prompts(rows, seed=3, batch=4)
    first = stream.next()
    state = stream.state()
    other = prompts(tfds(prepared, prompt="question", meta=["level"]), seed=3, batch=4)
    other.restore(state)
    assert other.next() == stream.next() != first


def test_tfds_mistakes_are_named(prepared):
    with pytest.raises(ValueError, match="no column 'prompt'; it has"):
        tfds(prepared)
    with pytest.raises(ValueError, match="no split 'test'; it has train"):
        tfds(prepared, "test")
    with pytest.raises(FileNotFoundError, match="no data set at"):
        tfds(f"{prepared}/absent")


def test_dates_beside_a_prompt_become_text_and_what_is_no_json_is_named(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    table = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "x.parquet"
    at = datetime.datetime(2026, 1, 2, 3, 4)
    rows = [{"prompt": "p", "answer": "a", "at": at, "days": [at.date()], "raw": b"x"}]
    table.write_table(pyarrow.Table.from_pylist(rows), path)
    example = parquet(path, meta=["at", "days"])[0]
    assert example.meta == {"at": "2026-01-02T03:04:00", "days": ["2026-01-02"]}
    with pytest.raises(ValueError, match=r"row 1: the column 'raw' holds what JSON cannot write \(a bytes\)"):
        parquet(path, meta=["raw"])
