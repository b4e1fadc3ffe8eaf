"""Sets of bytes against plain sets, and journals that a power cut has torn."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from olpc_update_query.perform_update.spans import (
    Receipt,
    Span,
    Spans,
    offset_in,
    read_journal,
)

_pairs = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=12)


@given(_pairs, st.integers(0, 60), st.integers(0, 60))
def test_spans_are_a_set_of_bytes(
    pairs: list[tuple[int, int]], start: int, end: int
) -> None:
    spans = Spans(pairs)
    model = {byte for one, other in pairs for byte in range(one, other)}
    assert {byte for one, other in spans for byte in range(one, other)} == model
    assert spans.total == len(model)
    assert all(one.end < other.start for one, other in pairwise(spans))
    lacking = {
        byte for one, other in spans.gaps(start, end) for byte in range(one, other)
    }
    assert lacking == set(range(start, end)) - model
    assert spans.covers(start, end) == (not lacking or start >= end)
    reach = spans.reach(start)
    assert reach not in model and set(range(start, reach)) <= model  # noqa: PT018
    last = spans.last_before(end)
    assert set(range(*last)) <= model
    assert not set(range(last.end, end)) & model
    assert last == (0, 0) or last.start - 1 not in model
    within = [byte for one in spans.within(start, end) for byte in range(*one)]
    assert within == sorted(model & set(range(start, end)))


@pytest.mark.parametrize(
    ("size", "offset"), [(0, 5), (1, 6), (4, 9), (5, 21), (6, 22), (99, 22)]
)
def test_offset_after_so_many_bytes(size: int, offset: int) -> None:
    assert offset_in([Span(5, 9), Span(20, 22)], size) == offset
    assert offset_in([], size) == 0


LINES = b"0 100 http://a.test/x\n200 300 rsync://b.test/y z\n"


def test_journal_says_who_gave_what() -> None:
    found = list(read_journal(LINES))
    assert found == [
        Receipt(0, 100, "http://a.test/x"),
        Receipt(200, 300, "rsync://b.test/y z"),
    ]
    assert b"".join(one.encode() for one in found) == LINES


@pytest.mark.parametrize("length", range(len(LINES)))
def test_torn_journal_never_says_too_much(length: int) -> None:
    found = list(read_journal(LINES[:length]))
    assert found == list(read_journal(LINES))[: LINES[:length].count(b"\n")]


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\0" * 50,
        b"5 5 http://a.test",
        b"9 5 http://a.test",
        b"-1 5 http://a.test",
        b"1 " + b"9" * 5000 + b" http://a.test",
        b"1 2",
        b"\xff \xff \xff",
    ],
)
def test_what_is_no_line_counts_as_nothing(line: bytes) -> None:
    assert list(read_journal(line + b"\n" + LINES)) == list(read_journal(LINES))


def test_gap_is_a_span() -> None:
    assert Spans([(0, 5)]).gaps(0, 9) == [Span(5, 9)]
