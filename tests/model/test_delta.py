"""Delta packs: header and index, and nothing that is not exactly one."""

import io
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from olpc_update_query.errors import Malformed
from olpc_update_query.model.delta import (
    MAX_HEADER,
    DeltaHeader,
    encode_delta_frame,
    read_delta_index,
)
from olpc_update_query.model.entry import MAX_INT
from olpc_update_query.model.pack import (
    BASE_WINDOW,
    SEGMENT,
    Frame,
    Segment,
)
from tests.model.packs import (
    NEW,
    OLD,
    ONE,
    REFUSED_FRAMES,
    SAMPLES,
    THREE,
    TWO,
    unpacked,
    whole,
)

PATCHED = Frame(
    bytes.fromhex(TWO),
    SEGMENT + 5,
    bytes.fromhex(THREE),
    0,
    (Segment(7, BASE_WINDOW, 20, SEGMENT), Segment(0, 0, 3, 5)),
)
PATCH_LINE = (
    f'["{TWO}",{SEGMENT + 5},"{THREE}",[[7,{BASE_WINDOW},20,{SEGMENT}],[0,0,3,5]]]\n'
).encode()
WHOLE_LINE = b'["%s",300,7]\n' % ONE.encode()
DELTA = DeltaHeader(OLD, NEW, 500, (Segment(0, 90, 30, 100),), 40, 60)
DELTA_LINE = (
    f'["olpc-update-delta",2,{{"from":"{OLD}","index":[40,60],"length":500,'
    f'"manifest":[[0,90,30,100]],"to":"{NEW}"}}]\n'
).encode()


def test_delta_header() -> None:
    assert DELTA.encode() == DELTA_LINE
    assert DeltaHeader.parse(DELTA_LINE) == DELTA
    start = len(DELTA_LINE)
    assert DELTA.manifest_offset == start
    assert DELTA.manifest_size == 100
    assert DELTA.index_offset == start + 30
    assert DELTA.frames_offset == start + 70


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(DELTA_LINE[:-1], id="no newline"),
        pytest.param(DELTA_LINE.replace(b"-delta", b"-pack"), id="another format"),
        pytest.param(DELTA_LINE.replace(b",2,", b",1,"), id="another version"),
        pytest.param(DELTA_LINE.replace(b'"to"', b'"at"'), id="another field"),
        pytest.param(DELTA_LINE.replace(b'"to"', b'"sum":1,"to"'), id="a field more"),
        pytest.param(DELTA_LINE.replace(b"[40,60]", b"[40]"), id="half an index"),
        pytest.param(DELTA_LINE.replace(b"[40,60]", b"[40,-60]"), id="negative"),
        pytest.param(DELTA_LINE.replace(b"[[0,90", b"[[90"), id="three numbers"),
        pytest.param(DELTA_LINE.replace(b"[[0,", b"[["), id="no offset"),
        pytest.param(DELTA_LINE.replace(b"[[0,90,30,100]]", b"[7]"), id="no list"),
        pytest.param(DELTA_LINE.replace(b"500", b"100"), id="shorter than its parts"),
        pytest.param(
            DELTA_LINE.replace(b",90,", b",%d," % (BASE_WINDOW + 1)), id="large base"
        ),
        pytest.param(
            DELTA_LINE.replace(b",100]", b",%d]" % (SEGMENT + 1)), id="large segment"
        ),
        pytest.param(DELTA_LINE.replace(OLD.encode(), b"x" * 64), id="no digest"),
        pytest.param(
            DELTA._replace(manifest=(Segment(0, 0, 1, 1),) * 8000).encode(), id="long"
        ),
    ],
)
def test_refused_delta_headers(line: bytes) -> None:
    with pytest.raises(Malformed):
        DeltaHeader.parse(line)


def test_the_longest_header_is_enough_for_the_longest_manifest() -> None:
    segments = (Segment(1 << 29, BASE_WINDOW, SEGMENT, SEGMENT),) * (1 << 30 - 22)
    header = DELTA._replace(length=1 << 40, manifest=segments)
    assert len(header.encode()) < MAX_HEADER
    assert header.manifest_size == 1 << 30


def test_delta_index() -> None:
    data = WHOLE_LINE + PATCH_LINE
    assert encode_delta_frame(whole(ONE, 7, 300, 0)) == WHOLE_LINE
    assert encode_delta_frame(PATCHED) == PATCH_LINE
    frames = [whole(ONE, 7, 300, 1000), PATCHED._replace(offset=1007)]
    assert list(read_delta_index(data, 1000)) == frames
    assert list(read_delta_index(io.BytesIO(data), 1000, 1030)) == frames
    assert list(read_delta_index(b"", 1000, 1000)) == []


@pytest.mark.parametrize("end", [1000, 1029, 1031])
def test_the_frames_must_fill_the_file(end: int) -> None:
    with pytest.raises(Malformed):
        list(read_delta_index(WHOLE_LINE + PATCH_LINE, 1000, end))


@pytest.mark.parametrize(
    "line",
    [
        *REFUSED_FRAMES,
        pytest.param(PATCH_LINE[:-1], id="patch: no newline"),
        pytest.param(PATCH_LINE.replace(b",20,", b", 20,"), id="patch: space"),
        pytest.param(PATCH_LINE.replace(b",3,5]", b",3,6]"), id="patch: more"),
        pytest.param(PATCH_LINE.replace(b",[0,0,3,5]", b""), id="patch: less"),
        pytest.param(PATCH_LINE.replace(b"[0,0,3,5]", b"[0,0,3]"), id="patch: three"),
        pytest.param(PATCH_LINE.replace(b"[0,0,3,5]", b"0"), id="patch: none"),
        pytest.param(PATCH_LINE.replace(b"c1", b"cg"), id="patch: no base"),
        pytest.param(
            PATCH_LINE.replace(b"%d" % BASE_WINDOW, b"%d" % (BASE_WINDOW + 1)),
            id="patch: large base",
        ),
        pytest.param(
            b'["%s",%d,"%s",[[0,0,9,%d]]]\n'
            % (TWO.encode(), SEGMENT + 1, THREE.encode(), SEGMENT + 1),
            id="patch: large segment",
        ),
    ],
)
def test_refused_delta_frames(line: bytes) -> None:
    with pytest.raises(Malformed):
        list(read_delta_index(line, 0))


numbers = st.integers(0, MAX_INT)
digests = st.binary(min_size=32, max_size=32)
segments = st.builds(
    Segment, numbers, st.integers(0, BASE_WINDOW), numbers, st.integers(0, SEGMENT)
)


@st.composite
def frames(draw: st.DrawFn) -> Frame:
    if draw(st.booleans()):
        only = Segment(0, 0, draw(numbers), draw(numbers))
        return Frame(draw(digests), only.size, None, 0, (only,))
    parts = tuple(draw(st.lists(segments, max_size=3)))
    size = sum(part.size for part in parts)
    return Frame(draw(digests), size, draw(digests), 0, parts)


@given(st.lists(frames(), max_size=5), numbers)
def test_every_delta_index_survives(made: list[Frame], start: int) -> None:
    data = b"".join(map(encode_delta_frame, made))
    found = list(read_delta_index(data, start))
    assert [frame._replace(offset=0) for frame in found] == made
    offset = start
    for frame in found:
        assert frame.offset == offset
        offset += frame.packed


def test_the_sample_delta() -> None:
    old, new = ((SAMPLES / name / "contents").read_bytes() for name in ("760", "762"))
    with open(SAMPLES / "762/delta/760.pack", "rb") as stream:
        header = DeltaHeader.parse(stream.readline(MAX_HEADER + 1))
        assert header.old == sha256(old).hexdigest()
        made = b""
        for offset, length, packed, size in header.manifest:
            base = old[offset : offset + length]
            made += unpacked(stream.read(packed), base, size)
        assert made == new
        index = unpacked(stream.read(header.index_packed), b"", header.index_size)
        found = list(read_delta_index(index, header.frames_offset, header.length))
    assert {frame.base is None for frame in found} == {True, False}


def test_the_document_shows_the_samples() -> None:
    text = (SAMPLES.parents[1] / "pack.md").read_text()
    index = (SAMPLES / "762/pack.index").read_text().splitlines()[:3]
    assert "\n".join(["```", *index, "```"]) in text
    delta = (SAMPLES / "762/delta/760.pack").read_bytes().partition(b"\n")[0]
    assert delta.decode() in text
