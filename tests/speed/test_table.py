"""The rows of docs/performance.md are those that `entjax bench` wrote."""

from benchmarks import table


def test_the_page_shows_what_was_measured():
    assert table.PAGE.read_text() == table.page(), "run: python -m benchmarks.table"
    assert table.text().count("\n") > 3
