"""Where a stop string ends, found from a fragment of the text."""

import itertools

import pytest

from entjax.sampler.stops import first_stop

PIECES = ["a", "b", " ab", "", "abcabc", "c", "\n\n", "x" * 30]


def text(ids):
    """Like a sentencepiece decoder, drops the space at the start of what it is given."""
    return "".join(PIECES[i] for i in ids).removeprefix(" ")


@pytest.mark.parametrize("stops", [["abc"], ["bca", "\n\n"], ["ab ab"], ["xa"]])
def test_the_first_end_is_found_whatever_was_checked_before(stops):
    for tokens in itertools.product(range(8), repeat=4):
        tokens = [7, *tokens, 2, 1]
        ends = [n for n in range(1, len(tokens) + 1) if any(s in text(tokens[:n]) for s in stops)]
        want = ends[0] if ends else None
        for checked in range(want or len(tokens)):
            assert first_stop(text, tokens, checked, stops) == want, (tokens, checked)


def test_only_the_end_of_a_long_text_is_decoded():
    longest = 0

    def counting(ids):
        nonlocal longest
        longest = max(longest, len(ids))
        return "".join(PIECES[i % 6] for i in ids)

    assert first_stop(counting, [0] * 5000 + [1, 5], 5000, ["abc"]) == 5002
    assert longest < 60
