"""Contents taken apart: their description, and nothing that is not exactly one."""

import json

import pytest

from olpc_update_query.errors import Malformed
from olpc_update_query.model.delta import encode_delta_frame, read_delta_index
from olpc_update_query.model.inside import (
    MAX_COPIES,
    MAX_INNER,
    MAX_PARTS,
    Copy,
    Inside,
    Kind,
    Member,
    Part,
    interleave,
)
from olpc_update_query.model.pack import Frame, Segment
from tests.model.packs import ONE, THREE, TWO

COPY = Copy(7, bytes.fromhex(ONE))
INSIDE = Inside(
    (Part(Kind.RAW, 10), Part(Kind.ZSTD, 900, (9, 1, 10504)), Part(Kind.RAW, 4)),
    (Member(Kind.DEFLATE, 10, 20, 30),),
    (COPY,),
)
TEXT = (
    '[[["raw",10],["zstd",900,9,1,10504],["raw",4]],'
    f'[["deflate",10,20,30]],[[7,"{ONE}"]]]'
)
FRAME = Frame(
    bytes.fromhex(TWO),
    500,
    bytes.fromhex(THREE),
    0,
    (Segment(0, 60, 20, 400),),
    INSIDE,
)
LINE = f'["{TWO}",500,"{THREE}",[[0,60,20,400]],{TEXT}]\n'.encode()


def test_a_description() -> None:
    assert INSIDE.encode() == TEXT
    assert Inside.parse(json.loads(TEXT)) == INSIDE


def test_a_line_of_an_index() -> None:
    assert encode_delta_frame(FRAME) == LINE
    assert list(read_delta_index(LINE, 0, 20)) == [FRAME]
    without_base = FRAME._replace(base=None)
    line = LINE.replace(THREE.encode(), b"")
    assert encode_delta_frame(without_base) == line
    assert list(read_delta_index(line, 0, 20)) == [without_base]


@pytest.mark.parametrize(
    "value",
    [
        pytest.param([], id="nothing"),
        pytest.param([[], []], id="two lists"),
        pytest.param([[], [], {}], id="an object"),
        pytest.param([[["brotli", 5]], [], []], id="another kind"),
        pytest.param([[[7, 5]], [], []], id="a kind that is a number"),
        pytest.param([[["raw"]], [], []], id="no size"),
        pytest.param([[["raw", -1]], [], []], id="negative"),
        pytest.param([[["raw", 5, 1]], [], []], id="a setting too many"),
        pytest.param([[["deflate", 5, 9]], [], []], id="a setting too few"),
        pytest.param([[["deflate", 5, 9, 1 << 40]], [], []], id="a huge setting"),
        pytest.param([[["deflate", 5, 9, True]], [], []], id="a bool"),
        pytest.param([[], [["raw", 1, 2, 3]], []], id="a raw member"),
        pytest.param([[], [["xz", 1, 2]], []], id="a short member"),
        pytest.param([[], [["xz", 0, 1, MAX_INNER + 1]], []], id="a large inside"),
        pytest.param([[], [["xz", MAX_INNER, 1, 1]], []], id="a long way to it"),
        pytest.param([[], [], [[1]]], id="half a copy"),
        pytest.param([[], [], [[1, "ab"]]], id="half a digest"),
        pytest.param([[["raw", 1]] * (MAX_PARTS + 1), [], []], id="many parts"),
        pytest.param([[], [["xz", 0, 1, 1]] * (MAX_PARTS + 1), []], id="many members"),
        pytest.param([[], [], [[0, ONE]] * (MAX_COPIES + 1)], id="many copies"),
    ],
)
def test_refused_descriptions(value: list[object]) -> None:
    with pytest.raises(Malformed):
        Inside.parse(value)  # type: ignore[arg-type] # it is JSON


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(LINE.replace(b",4]]", b",04]]"), id="not canonical"),
        pytest.param(LINE.replace(b"]]]\n", b"]]],[]]\n"), id="a field more"),
        pytest.param(LINE.replace(f'"{THREE}"'.encode(), b"0"), id="no base text"),
    ],
)
def test_refused_lines(line: bytes) -> None:
    assert line != LINE
    with pytest.raises(Malformed):
        list(read_delta_index(line, 0))


def test_the_order_of_segments_and_copies() -> None:
    other = Copy(0, bytes.fromhex(TWO))
    order = list(interleave((COPY, other), 10))
    assert order == [(7, COPY.digest), (0, other.digest), (3, None)]
    assert list(interleave((), 0)) == [(0, None)]
    with pytest.raises(Malformed):
        list(interleave((COPY, COPY), 10))
