"""Segments: what is packed comes out again, and what is damaged does not."""

import io
import random
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from olpc_update_query.errors import CorruptContent
from olpc_update_query.model import whole
from olpc_update_query.model.pack import (
    BASE_WINDOW,
    SEGMENT,
    WINDOW_LOG,
    pack_segment,
    unpack_segment,
)
from olpc_update_query.model.whole import (
    PACK_LEVEL,
    pack_content,
    pack_whole,
    unpack_whole,
)
from tests.model.packs import (
    unpacked,
)

TEXT = b"".join(b"line %d of a content\n" % number for number in range(20_000))


def noise(length: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(length)


CONTENTS = [
    pytest.param(b"", id="nothing"),
    pytest.param(b"x", id="a byte"),
    pytest.param(TEXT, id="text"),
    pytest.param(noise(300_000), id="noise"),
    pytest.param(bytes(SEGMENT), id="zeros"),
]


@pytest.mark.parametrize("raw", CONTENTS)
@pytest.mark.parametrize("base", CONTENTS)
@pytest.mark.parametrize("level", [1, 19])
def test_segments(raw: bytes, base: bytes, level: int) -> None:
    packed = pack_segment(raw, base, level)
    assert unpacked(packed, base, len(raw)) == raw
    chunks = list(unpack_segment(memoryview(packed), memoryview(base), len(raw)))
    assert b"".join(chunks) == raw
    assert max(map(len, chunks), default=0) <= 128 << 10
    stream = io.BytesIO(packed)
    assert b"".join(unpack_segment(stream, base, len(raw))) == raw
    assert not stream.closed


@pytest.mark.parametrize("end", [20, 100_000, 131_100, 200_000, 299_999])
def test_beginning_of_what_is_not_compressed(end: int) -> None:
    """All of it that came is of use, though its block of 128 KiB has not come whole."""
    raw = noise(300_000)
    packed = pack_segment(raw, b"", 3)[:end]
    found = bytearray()
    with pytest.raises(CorruptContent):
        collect(unpack_segment(packed, b"", len(raw)), found)
    assert raw.startswith(found)
    assert end - 30 < len(found) < end


def test_beginning_of_what_is_compressed_ends_with_a_whole_block() -> None:
    packed = pack_segment(TEXT, b"", 3)
    found = bytearray()
    with pytest.raises(CorruptContent):
        collect(unpack_segment(packed[:-1], b"", len(TEXT)), found)
    assert TEXT.startswith(found)
    assert len(found) % (128 << 10) == 0


@given(st.binary(max_size=2000), st.binary(max_size=2000))
def test_every_content_survives(raw: bytes, base: bytes) -> None:
    assert unpacked(pack_segment(raw, base, 3), base, len(raw)) == raw
    pieces = [raw[at : at + 700] for at in range(0, len(raw), 700)]
    assert unpacked(b"".join(pack_content(pieces, len(raw), 3)), b"", len(raw)) == raw


@pytest.mark.parametrize(
    ("start", "length"),
    [
        pytest.param(0, SEGMENT, id="from the base's first half"),
        pytest.param(BASE_WINDOW - SEGMENT, SEGMENT, id="from its second half"),
        pytest.param(100, 1000, id="from its first bytes"),
    ],
)
def test_the_whole_base_is_within_reach(start: int, length: int) -> None:
    base = noise(BASE_WINDOW)
    raw = noise(SEGMENT - length, seed=1) + base[start : start + length]
    packed = pack_segment(raw, base, 19)
    assert len(packed) < SEGMENT - length + 500
    assert unpacked(packed, base, len(raw)) == raw


def test_same_content_same_bytes() -> None:
    assert pack_segment(TEXT, TEXT[:99], 19) == pack_segment(TEXT, TEXT[:99], 19)
    whole = b"".join(pack_content([TEXT], len(TEXT), 19))
    assert whole == b"".join(pack_content([TEXT[:9], TEXT[9:]], len(TEXT), 19))


@pytest.mark.parametrize(
    ("level", "size"),
    [*((PACK_LEVEL, size) for size in (9000, 60_000, 200_000, 3 << 20)), (19, 9000)],
)
def test_what_was_packed_before_changes_nothing(level: int, size: int) -> None:
    content = (TEXT + noise(1 << 20) + TEXT[::-1] + noise(2 << 20))[:size]
    packed = pack_whole(content, level)
    for other in (noise(size), TEXT, b"", content[9:]):
        pack_whole(other, level)
        assert pack_whole(content, level) == packed
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(pack_whole, content, level).result() == packed
    assert unpack_whole(packed, size) == content
    assert unpacked(packed, b"", size) == content


def test_the_number_of_processors_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pieces = [TEXT, noise(9 << 20), TEXT, noise(9 << 20)[::3], TEXT[::-1]]
    size = sum(map(len, pieces))
    found = set()
    for threads in (1, 2, 5):
        monkeypatch.setitem(whole._JOBS, "threads", threads)
        found.add(b"".join(pack_content(pieces, size, PACK_LEVEL)))
    (packed,) = found
    assert unpacked(packed, b"", size) == b"".join(pieces)


def test_a_frame_says_no_more_than_it_has_to() -> None:
    for packed in (
        pack_segment(TEXT, TEXT[:99], 19),
        b"".join(pack_content([TEXT], len(TEXT), 19)),
    ):
        found = zstandard.get_frame_parameters(packed)
        assert found.content_size == len(TEXT)
        assert found.dict_id == 0
        assert not found.has_checksum


@pytest.mark.parametrize("level", [1, 19, 22])
def test_no_window_is_too_large_for_a_reader(level: int) -> None:
    size = 40 << 20
    chunks = (bytes(1 << 20) for _ in range(40))
    packed = b"".join(pack_content(chunks, size, level))
    assert zstandard.get_frame_parameters(packed).window_size <= 1 << WINDOW_LOG
    assert sum(map(len, unpack_segment(packed, b"", size))) == size
    segment = pack_segment(bytes(SEGMENT), bytes(BASE_WINDOW), level)
    assert zstandard.get_frame_parameters(segment).window_size <= SEGMENT


@pytest.mark.parametrize("size", [len(TEXT) - 1, len(TEXT) + 1])
def test_a_content_must_have_its_size(size: int) -> None:
    with pytest.raises(CorruptContent):
        b"".join(pack_content([TEXT], size, 3))


def with_large_window() -> bytes:
    parameters = zstandard.ZstdCompressionParameters(window_log=27)
    packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    return packer.compress(TEXT) + packer.flush()


def bomb() -> bytes:
    return b"".join(pack_content((bytes(1 << 20) for _ in range(64)), 64 << 20, 3))


def claims_another_size() -> bytes:
    packed = bytearray(zstandard.ZstdCompressor().compress(TEXT))
    at = 5 if packed[4] & 0x20 else 6  # RFC 8878, 3.1.1.1: the content size
    packed[at] ^= 1
    return bytes(packed)


def two_frames(at: int) -> bytes:
    return pack_segment(TEXT[:at], b"", 3) + pack_segment(TEXT[at:], b"", 3)


PACKED = pack_segment(TEXT, b"", 3)
SKIPPABLE = bytes.fromhex("502a4d18 03000000") + b"abc"
DAMAGED = [
    pytest.param(lambda: b"", id="nothing"),
    pytest.param(lambda: b"\0" * 100, id="zeros"),
    pytest.param(lambda: TEXT, id="not packed"),
    pytest.param(lambda: PACKED[:-1], id="cut"),
    pytest.param(lambda: PACKED[: len(PACKED) // 2], id="half"),
    pytest.param(lambda: pack_segment(TEXT + b"x", b"", 3), id="a byte more"),
    pytest.param(lambda: pack_segment(TEXT[:-1], b"", 3), id="a byte less"),
    pytest.param(bomb, id="bomb"),
    pytest.param(with_large_window, id="large window"),
    pytest.param(claims_another_size, id="another size in its header"),
    pytest.param(lambda: PACKED + b"\0", id="a byte behind it"),
    pytest.param(lambda: two_frames(len(TEXT) // 2), id="two frames"),
    pytest.param(lambda: two_frames(128 << 10), id="two frames, the first a block"),
    pytest.param(lambda: PACKED + pack_segment(b"", b"", 3), id="an empty frame more"),
    pytest.param(lambda: PACKED + SKIPPABLE, id="a skippable frame more"),
    pytest.param(lambda: SKIPPABLE + PACKED, id="a skippable frame first"),
    pytest.param(lambda: pack_segment(TEXT, noise(999) + TEXT, 3), id="other base"),
]


def collect(chunks: Iterator[bytes], found: bytearray) -> None:
    for chunk in chunks:
        found += chunk


@pytest.mark.parametrize("make", DAMAGED)
def test_damaged_segments(make: Callable[[], bytes]) -> None:
    found = bytearray()
    with pytest.raises(CorruptContent):
        collect(unpack_segment(make(), b"", len(TEXT)), found)
    assert len(found) <= len(TEXT)
    with pytest.raises(CorruptContent):
        unpack_whole(make(), len(TEXT))


@given(st.data())
def test_any_damage_is_refused_or_seen_in_the_digest(data: st.DataObject) -> None:
    base = TEXT[:5000]
    packed = bytearray(pack_segment(TEXT[2000:9000], base, 3))
    at = data.draw(st.integers(0, len(packed) - 1))
    packed[at] ^= data.draw(st.integers(1, 255))
    try:
        found = unpacked(bytes(packed), base, 7000)
    except CorruptContent:
        return
    assert len(found) == 7000


def test_a_bomb_takes_no_memory() -> None:
    packed = bomb()
    tracemalloc.start()
    try:
        with pytest.raises(CorruptContent):
            unpacked(packed, b"", 1000)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
