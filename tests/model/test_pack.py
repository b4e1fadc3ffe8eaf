"""Full packs: their index, and the ranges to ask for."""

import io
from collections.abc import Iterator
from hashlib import sha256
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from olpc_update_query.errors import Malformed
from olpc_update_query.model.pack import (
    CLOSE_GAP,
    MAX_LINE,
    Frame,
    PackHeader,
    Range,
    coalesce,
    encode_pack_frame,
    encode_pack_header,
    parse_pack_header,
    read_pack_index,
)
from tests.model.packs import (
    LINES,
    NEW,
    ONE,
    REFUSED_FRAMES,
    SAMPLES,
    THREE,
    unpacked,
    whole,
)

HEADER = b'["olpc-update-pack",1,{"contents":"%s","frames":2,"length":16}]\n' % (
    NEW.encode()
)
FRAMES = [whole(ONE, 9, 0, 0), whole(THREE, 7, 300, 9)]


def read_index(data: bytes) -> list[Frame]:
    return list(read_pack_index(io.BytesIO(data))[1])


def test_pack_index() -> None:
    data = encode_pack_header(PackHeader(NEW, 2, 16))
    assert data == HEADER
    assert [encode_pack_frame(frame) for frame in FRAMES] == LINES
    header, frames = read_pack_index(io.BytesIO(b"".join([data, *LINES])))
    assert header == PackHeader(NEW, 2, 16)
    assert list(frames) == FRAMES
    assert [frame.packed for frame in FRAMES] == [9, 7]


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(HEADER[:-1], id="no newline"),
        pytest.param(HEADER.replace(b"-pack", b"-delta"), id="another format"),
        pytest.param(HEADER.replace(b",1,", b",2,"), id="another version"),
        pytest.param(HEADER.replace(b",1,", b",true,"), id="version true"),
        pytest.param(HEADER.replace(b"b1", b"B1"), id="upper-case digest"),
        pytest.param(HEADER.replace(b'"length"', b'"size"'), id="another field"),
        pytest.param(HEADER.replace(b"}", b',"x":1}'), id="a field more"),
        pytest.param(HEADER.replace(b"16", b"-16"), id="negative"),
        pytest.param(HEADER.replace(b"16", b"true"), id="bool"),
        pytest.param(HEADER.replace(b"16", b"1.6"), id="float"),
        pytest.param(HEADER.replace(b"}]", b"},1]"), id="an item more"),
        pytest.param(HEADER.replace(b"[", b"").replace(b"]", b""), id="no list"),
    ],
)
def test_refused_pack_headers(line: bytes) -> None:
    with pytest.raises(Malformed):
        parse_pack_header(line)


def test_a_long_header_is_not_even_parsed() -> None:
    with pytest.raises(Malformed, match="longer than"):
        read_index(b"x" * MAX_LINE)


@pytest.mark.parametrize("line", REFUSED_FRAMES)
def test_refused_pack_frames(line: bytes) -> None:
    with pytest.raises(Malformed):
        read_index(HEADER + line)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(HEADER, id="no frame"),
        pytest.param(HEADER + LINES[0], id="a frame less"),
        pytest.param(HEADER + LINES[0] + LINES[1] + LINES[1], id="a frame more"),
        pytest.param(HEADER + LINES[0] + LINES[0], id="another length"),
        pytest.param((HEADER + LINES[0] + LINES[1])[:-1], id="cut"),
    ],
)
def test_a_pack_index_must_be_complete(data: bytes) -> None:
    with pytest.raises(Malformed):
        read_index(data)


def wanted(*spans: tuple[int, int]) -> list[Range]:
    return [whole(ONE, end - start, 1, start).range for start, end in spans]


K = 1 << 10


@pytest.mark.parametrize(
    ("stretches", "requests", "ranges"),
    [
        pytest.param([], 48, [], id="nothing"),
        pytest.param(wanted((5, 9)), 48, [(5, 4)], id="one"),
        pytest.param(wanted((5, 9), (9, 20)), 48, [(5, 15)], id="neighbours"),
        pytest.param(
            wanted((0, 9), (9 + CLOSE_GAP - 1, 40 * K)), 48, [(0, 40 * K)], id="near"
        ),
        pytest.param(
            wanted((0, 9), (9 + CLOSE_GAP, 40 * K)),
            *(48, [(0, 9), (9 + CLOSE_GAP, 24 * K - 9)]),
            id="far",
        ),
        pytest.param(
            wanted((0, 1), (30 * K, 30 * K + 1), (90 * K, 90 * K + 1)),
            *(2, [(0, 30 * K + 1), (90 * K, 1)]),
            id="the largest gap stays",
        ),
        pytest.param(
            wanted((0, 1), (30 * K, 30 * K + 1), (90 * K, 90 * K + 1)),
            *(1, [(0, 90 * K + 1)]),
            id="one request",
        ),
        pytest.param(wanted((5, 5), (5, 9)), 48, [(5, 4)], id="an empty frame"),
    ],
)
def test_coalesce(
    stretches: list[Range], requests: int, ranges: list[tuple[int, int]]
) -> None:
    assert coalesce(stretches, requests) == [Range(*span) for span in ranges]


gaps = st.sampled_from([0, 1, CLOSE_GAP - 1, CLOSE_GAP, 3 * CLOSE_GAP, 9 * CLOSE_GAP])


def spread(pairs: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    at = 0
    for gap, length in pairs:
        yield at + gap, at + gap + length
        at += gap + length


@given(st.lists(st.tuples(gaps, st.integers(1, 9999)), max_size=30), st.integers(1, 9))
def test_ranges_hold_all_that_is_wanted(
    pairs: list[tuple[int, int]], requests: int
) -> None:
    stretches = wanted(*spread(pairs))
    ranges = coalesce(stretches, requests)
    assert len(ranges) <= requests
    for start, size in stretches:
        assert any(
            offset <= start and start + size <= offset + length
            for offset, length in ranges
        )
    between = [
        after.offset - before.offset - before.length
        for before, after in pairwise(ranges)
    ]
    assert min(between, default=CLOSE_GAP) >= CLOSE_GAP
    more = coalesce(stretches, requests + 1)
    assert sum(length for _, length in more) <= sum(length for _, length in ranges)


def test_what_is_far_apart_is_for_the_caller_to_say() -> None:
    stretches = wanted((0, 9), (109, 118))
    assert coalesce(stretches, close_gap=101) == [Range(0, 118)]
    assert coalesce(stretches, close_gap=100) == stretches


def test_stretches_out_of_order_are_a_bug() -> None:
    with pytest.raises(ValueError, match="order"):
        coalesce(wanted((50, 60), (0, 9)))
    with pytest.raises(ValueError, match="request"):
        coalesce([], 0)


def test_the_sample_pack() -> None:
    build = SAMPLES / "762"
    contents, pack = (build / "contents").read_bytes(), (build / "pack").read_bytes()
    with open(build / "pack.index", "rb") as stream:
        header, frames = read_pack_index(stream)
        found = list(frames)
    assert header.contents == sha256(contents).hexdigest()
    for frame in found:
        packed = pack[frame.offset : frame.offset + frame.packed]
        digest = sha256(unpacked(packed, b"", frame.size)).digest()
        assert digest == frame.digest
        assert digest.hex().encode() in contents
