"""Several ranges in one reply, from servers that are honest and others."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from olpc_update_query import errors
from olpc_update_query.ports import RangesRefused
from olpc_update_query.system.multipart import (
    LONGEST_LINE,
    SLACK,
    Parts,
    boundary_of,
)
from tests.http_server import BOUNDARY, parts_of

DATA = bytes(range(256)) * 400
ASKED = [(0, 10), (600, 700), (5000, 5001), (90_000, len(DATA))]
BODY = parts_of(DATA, [(span, DATA[slice(*span)]) for span in ASKED])
MARK = BOUNDARY.encode()


def in_pieces(body: bytes, size: int) -> Iterator[bytes]:
    yield from (body[at : at + size] for at in range(0, len(body), size))


def read(body: bytes, size: int = 4096) -> dict[int, int]:
    """Return every byte that comes, by its offset."""
    parts = Parts("http://a.test/pack", in_pieces(body, size), ASKED, MARK)
    assert parts.total == len(DATA)
    found: dict[int, int] = {}
    for start, piece in parts:
        assert piece
        found |= dict(enumerate(piece, start))
    return found


def come(*spans: tuple[int, int]) -> dict[int, int]:
    return {at: DATA[at] for span in spans for at in range(*span)}


def part(head: str, body: bytes = b"x" * 10) -> bytes:
    return f"--{BOUNDARY}\r\n{head}\r\n\r\n".encode() + body + b"\r\n"


END = f"--{BOUNDARY}--\r\n".encode()
FIRST = f"Content-Range: bytes 0-9/{len(DATA)}"


@pytest.mark.parametrize("size", [1, 2, 7, 100, 1 << 20])
def test_parts_come_however_they_are_cut(size: int) -> None:
    assert read(BODY, size) == come(*ASKED)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(BODY.removeprefix(b"\r\n"), id="no line before the first part"),
        pytest.param(BODY + b"the end\r\n" * 9, id="something behind the last"),
        pytest.param(BODY.replace(b"-Range", b"-rANGE"), id="other letters"),
        pytest.param(BODY.replace(MARK + b"\r", MARK + b" \t\r"), id="padding"),
    ],
)
def test_ways_to_say_the_same(body: bytes) -> None:
    assert read(body) == come(*ASKED)


def test_parts_may_be_lacking() -> None:
    few = [(span, DATA[slice(*span)]) for span in ASKED[1:3]]
    assert read(parts_of(DATA, few)) == come(*ASKED[1:3])


def test_neighbours_may_be_joined_when_little_lies_between() -> None:
    joined = [((0, 700), DATA[:700]), ((5000, 5001), DATA[5000:5001])]
    assert read(parts_of(DATA, joined)) == come((0, 700), (5000, 5001))
    far = [((5000, len(DATA)), DATA[5000:])]
    with pytest.raises(RangesRefused, match="far more"):
        read(parts_of(DATA, far))


def test_one_range_may_come_without_parts() -> None:
    body = in_pieces(DATA[600:700], 7)
    parts = Parts("u", body, ASKED, None, (600, 700, len(DATA)))
    assert b"".join(piece for _, piece in parts) == DATA[600:700]


def test_what_came_before_the_link_failed_is_given() -> None:
    parts = Parts("u", in_pieces(BODY[:500], 50), ASKED, MARK)
    found: dict[int, int] = {}

    def take() -> None:
        for start, piece in parts:
            found.update(enumerate(piece, start))

    with pytest.raises(errors.NetworkError, match="cut off") as caught:
        take()
    assert not isinstance(caught.value, RangesRefused)
    assert found.items() < come(*ASKED).items()
    assert len(found) > 50


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(part(FIRST, b"x" * 11) + END, id="longer than it says"),
        pytest.param(part(FIRST, b"x" * 9) + END, id="shorter than it says"),
        pytest.param(part(FIRST) * 2 + END, id="the same part twice"),
        pytest.param(
            part(f"Content-Range: bytes 600-699/{len(DATA)}", b"x" * 100)
            + part(FIRST)
            + END,
            id="going back",
        ),
        pytest.param(
            part(FIRST) + part("Content-Range: bytes 600-699/9999", b"x" * 100) + END,
            id="of another file",
        ),
        pytest.param(part("Content-Range: bytes 0-9/*") + END, id="of no length"),
        pytest.param(part(FIRST.replace("0-9", "0-8")) + END, id="another end"),
        pytest.param(part(FIRST.replace("0-9", "1-9")) + END, id="another start"),
        pytest.param(part(FIRST.replace("0-9", "0-700")) + END, id="overlapping"),
        pytest.param(part(FIRST.replace("0-9", "9-0")) + END, id="backwards"),
        pytest.param(part(FIRST.replace("0-9", "0-9" * 20)) + END, id="huge numbers"),
        pytest.param(part(f"{FIRST}\r\n{FIRST}") + END, id="two ranges"),
        pytest.param(part("Content-Type: text/plain") + END, id="no range"),
        pytest.param(part("\r\n".join(["A: b"] * 99)) + END, id="a long head"),
        pytest.param(part("A: " + "b" * LONGEST_LINE) + END, id="a long line"),
        pytest.param(b"A" * (2 * LONGEST_LINE), id="a line without an end"),
        pytest.param(b"\r\n" * 5000, id="nothing but lines"),
        pytest.param(b"hello\r\n" + BODY, id="a preamble"),
        pytest.param(BODY.replace(MARK, b"x"), id="another boundary"),
        pytest.param(END, id="no part"),
        pytest.param(b"<html>\r\n" * 9, id="a page"),
    ],
)
def test_anything_else_is_refused(body: bytes) -> None:
    for size in (3, 1 << 20):
        with pytest.raises(RangesRefused):
            read(body, size)


def test_what_never_ends_is_left() -> None:
    taken = 0

    def endless() -> Iterator[bytes]:
        nonlocal taken
        yield BODY
        while taken < 10_000_000:
            taken += 1000
            yield b"x" * 1000

    for _ in Parts("u", endless(), ASKED, MARK):
        pass
    assert taken < 10_000


mutations = st.lists(
    st.tuples(st.integers(0, 700), st.integers(0, 40), st.binary(max_size=20)),
    min_size=1,
    max_size=4,
)


@given(mutations)
def test_no_answer_brings_what_was_not_asked_for(
    changes: list[tuple[int, int, bytes]],
) -> None:
    body = bytearray(BODY)
    for start, length, other in changes:
        body[start : start + length] = other
    taken = 0
    try:
        for start, piece in Parts("u", in_pieces(bytes(body), 999), ASKED, MARK):
            taken += len(piece)
            assert 0 <= start < start + len(piece) <= len(DATA)
    except errors.NetworkError:
        pass
    assert taken <= sum(end - start for start, end in ASKED) + SLACK


@pytest.mark.parametrize(
    ("kind", "boundary"),
    [
        ("multipart/byteranges; boundary=00000000000000000042", b"0" * 18 + b"42"),
        ("Multipart/ByteRanges;BOUNDARY=a", b"a"),
        ('multipart/byteranges; boundary="a b:c"', b"a b:c"),
        ("multipart/byteranges; charset=x; boundary=a_-'b; y=z", b"a_-'b"),
        ("multipart/byteranges; boundary=" + "a" * 70, b"a" * 70),
        ("multipart/byteranges; boundary=" + "a" * 71, None),
        ("multipart/byteranges; boundary=", None),
        ('multipart/byteranges; boundary=""', None),
        ('multipart/byteranges; boundary="a\r\nb"', None),
        ("multipart/byteranges; boundary=\xe9", None),
        ("multipart/byteranges", None),
        ("multipart/mixed; boundary=a", None),
        ("application/octet-stream", None),
        ("", None),
    ],
    ids=lambda value: repr(value)[:50] if isinstance(value, str) else "",
)
def test_boundaries(kind: str, boundary: bytes | None) -> None:
    assert boundary_of(kind) == boundary
