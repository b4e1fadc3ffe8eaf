"""A pack that is laid out otherwise than its index says."""

import pytest

from olpc_update_query.model.pack import Frame, Segment, pack_segment
from olpc_update_query.perform_update.sources.landmarks import Landmarks

SIZES = (100, 5000, 70_000, 300_000)
PACKED = [pack_segment(bytes([size % 251]) * size, b"", 3) for size in SIZES]


def marks_of(sizes: tuple[int, ...], packed: list[bytes], *, start: int) -> Landmarks:
    marks, offset = Landmarks(), start
    for size, data in zip(sizes, packed, strict=True):
        segments = (Segment(0, 0, len(data), size),)
        marks.add(Frame(bytes(32), size, None, offset, segments))
        offset += len(data)
    return marks


@pytest.mark.parametrize("piece", [1, 17, 18, 19, 40, 10**6])
@pytest.mark.parametrize("start", [0, 1000])
def test_the_right_pack_is_never_refused(start: int, piece: int) -> None:
    marks = marks_of(SIZES, PACKED, start=start)
    data = bytes(start) + b"".join(PACKED)
    for at in range(0, len(data), piece):
        assert not marks.contradict(at, data[at : at + piece])


@pytest.mark.parametrize("start", [0, 1000])
def test_another_order_is_seen_in_the_first_frame(start: int) -> None:
    marks = marks_of(SIZES, PACKED, start=start)
    turned = b"".join(PACKED[::-1])
    assert marks.contradict(start, turned[:18])
    assert not marks.contradict(start, turned[:17]), "too little to tell"
    assert not marks.contradict(start + len(turned), turned)


def test_no_frame_at_all_is_seen() -> None:
    marks = marks_of(SIZES, PACKED, start=0)
    assert marks.contradict(0, b"<html>" * 10)
    assert marks.contradict(0, bytes(18))
    assert not marks.contradict(1, bytes(18)), "in the middle of a frame"


def test_a_frame_need_not_tell_its_size() -> None:
    import zstandard

    silent = zstandard.ZstdCompressor(write_content_size=False)
    data = silent.compress(bytes(range(256)) * 4)
    assert zstandard.frame_content_size(data[:18]) == -1
    assert not marks_of((1024,), [data], start=0).contradict(0, data)
