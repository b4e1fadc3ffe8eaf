"""Packs: the contents of a build, as zstd frames that a digest proves.

``docs/pack.md`` is the formats' description. This module holds what full packs and
delta packs (`olpc_update_query.model.delta`) have in common, the index of a full
pack, and the choice of the ranges to ask for.

A segment is one zstd frame, made with a stretch of a base content as its raw
dictionary. Whoever reads one needs memory for the segment's base and for a window of
at most 8 MiB, whatever the size of the content.
"""

import heapq
import io
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import BinaryIO, NamedTuple

from olpc_update_query.errors import CorruptContent, Malformed
from olpc_update_query.model import canonical
from olpc_update_query.model.canonical import Json
from olpc_update_query.model.fields import (
    MAX_HEADER,
    parse_header_fields,
    parse_line,
    read_count,
    read_digest,
)
from olpc_update_query.model.inside import Inside
from olpc_update_query.model.wire import Sha256, parse_sha256

SEGMENT = 4 << 20
BASE_WINDOW = 8 << 20
WINDOW_LOG = 23
MAX_LINE = 1 << 20
"""Bytes of a first line: it is read before anything is known of who wrote it."""
MAX_REQUESTS = 48
CLOSE_GAP = 16 << 10

_CHUNK = 128 << 10
_RAW, _RUN = 0, 1  # types of blocks: bytes as they are, and one byte repeated
_FORMAT = "olpc-update-pack"
_VERSION = 1


class Segment(NamedTuple):
    """One zstd frame.

    Attributes:
        base_offset: Where its dictionary begins in the base content.
        base_length: Length of the dictionary in bytes, 0 for none.
        packed: Length of the frame in bytes.
        size: Length of what is inside.
    """

    base_offset: int
    base_length: int
    packed: int
    size: int


class Frame(NamedTuple):
    """One content in a pack.

    Attributes:
        digest: SHA-256 of the content, 32 raw bytes.
        size: Its length in bytes.
        base: Digest of the content that its segments are patches of; None when it is
            whole, and then it has one segment.
        offset: Where its first segment begins in the pack; the others follow.
        segments: Its parts, in order.
        inside: How what the segments make is put together; None when it is the
            content itself.
    """

    digest: bytes
    size: int
    base: bytes | None
    offset: int
    segments: tuple[Segment, ...]
    inside: Inside | None = None

    @property
    def packed(self) -> int:
        """Length of all segments in bytes."""
        return sum(segment.packed for segment in self.segments)

    @property
    def range(self) -> "Range":
        """Where it lies in the pack."""
        return Range(self.offset, self.packed)


# --- segments -----------------------------------------------------------------


def pack_segment(
    raw: bytes | memoryview, base: bytes | memoryview, level: int
) -> bytes:
    """Compress one segment.

    Args:
        raw: At most `SEGMENT` bytes.
        base: The stretch of the base that it resembles, at most `BASE_WINDOW` bytes;
            empty for none.
        level: zstd's level, 1 to 22.
    """
    import zstandard

    dictionary = None
    if base:
        dictionary = zstandard.ZstdCompressionDict(
            base, dict_type=zstandard.DICT_TYPE_RAWCONTENT
        )
    # A hash table of 2^21 entries finds as much in 12 MiB as a larger one.
    level_parameters = zstandard.ZstdCompressionParameters.from_level
    sizes = {"source_size": len(raw), "dict_size": len(base)}
    hash_log = min(level_parameters(level, **sizes).hash_log, 21)
    parameters = level_parameters(
        level, **sizes, hash_log=hash_log, write_dict_id=False
    )
    compressor = zstandard.ZstdCompressor(
        dict_data=dictionary, compression_params=parameters
    )
    return compressor.compress(raw)


def unpack_segment(
    packed: bytes | memoryview | BinaryIO, base: bytes | memoryview, size: int
) -> Iterator[bytes]:
    """Expand one segment, a piece at a time.

    Nothing of it is proven: the caller compares the digest of the whole content.

    Args:
        packed: The frame, or a stream that ends where the frame ends.
        base: The stretch of the base it was made with; empty for none.
        size: Length of what is inside.

    Yields:
        Pieces of at most 128 KiB, ``size`` bytes in all and never more. Of a frame
        that is cut off: its whole blocks and, where nothing was to be compressed, the
        beginning of the next.

    Raises:
        CorruptContent: It is damaged, needs more memory than a reader has to give,
            or holds another number of bytes.
    """
    import zstandard

    dictionary = None
    if base:
        dictionary = zstandard.ZstdCompressionDict(
            base, dict_type=zstandard.DICT_TYPE_RAWCONTENT
        )
    expander = zstandard.ZstdDecompressor(
        dict_data=dictionary, max_window_size=1 << WINDOW_LOG
    ).decompressobj()
    stream = io.BytesIO(packed) if isinstance(packed, bytes | memoryview) else packed
    left = size
    try:
        for part in _parts_of_frame(stream):
            chunk = expander.decompress(part)
            left -= len(chunk)
            if left < 0:
                break
            if chunk:
                yield chunk
    except zstandard.ZstdError as error:
        raise CorruptContent("packed content", "a zstd frame", str(error)) from None
    if left:
        found = "more" if left < 0 else f"{size - left}"
        raise CorruptContent("packed content", f"{size} bytes", found)


def _parts_of_frame(stream: BinaryIO) -> Iterator[bytes]:
    """Split a zstd frame by RFC 8878, 3.1.1: its header, then block by block.

    What a block expands to is at most 128 KiB, so a bomb takes no memory.

    Raises:
        CorruptContent: It is cut off, or something follows it.
    """
    head = _exactly(stream, 5)
    single, with_checksum = head[4] >> 5 & 1, head[4] >> 2 & 1
    content_size, dictionary = (
        (single, 2, 4, 8)[head[4] >> 6],
        (0, 1, 2, 4)[head[4] & 3],
    )
    yield head + _exactly(stream, 1 - single + dictionary + content_size)
    last = 0
    while not last:
        block = _exactly(stream, 3)
        number = int.from_bytes(block, "little")
        last, kind, length = number & 1, number >> 1 & 3, number >> 3
        length = 1 if kind == _RUN else min(length, _CHUNK)
        body = stream.read(length)
        if kind == _RAW and body and len(body) < length:
            yield (len(body) << 3).to_bytes(3, "little") + body  # it is what it is
        yield block + _all_of(body, length)
    if with_checksum:
        yield _exactly(stream, 4)
    if stream.read(1):
        raise CorruptContent("packed content", "one zstd frame", "something behind it")


def _exactly(stream: BinaryIO, length: int) -> bytes:
    return _all_of(stream.read(length), length)


def _all_of(data: bytes, length: int) -> bytes:
    if len(data) < length:
        raise CorruptContent("packed content", "a whole zstd frame", "less")
    return data


# --- the index of a full pack -------------------------------------------------


class PackHeader(NamedTuple):
    """The first line of a full pack's index.

    Attributes:
        contents: SHA-256 of the build's manifest, hex.
        frames: How many lines follow.
        length: Length of the pack in bytes.
    """

    contents: Sha256
    frames: int
    length: int


def encode_pack_header(header: PackHeader) -> bytes:
    """Return the first line of a full pack's index."""
    fields: dict[str, Json] = {
        "contents": header.contents,
        "frames": header.frames,
        "length": header.length,
    }
    return canonical.encode([_FORMAT, _VERSION, fields]) + b"\n"


def encode_pack_frame(frame: Frame) -> bytes:
    """Return the line of a full pack's index for a content that is whole."""
    return f'["{frame.digest.hex()}",{frame.packed},{frame.size}]\n'.encode()


def read_pack_index(stream: BinaryIO) -> tuple[PackHeader, Iterator[Frame]]:
    """Read the index of a full pack, in constant memory.

    Args:
        stream: The index, at its first byte.

    Returns:
        The header, and the frames in the order in which they lie in the pack.
        Iterating raises `Malformed` where the index is wrong.

    Raises:
        Malformed: The header is not one.
    """
    header = parse_pack_header(stream.readline(MAX_HEADER + 1))
    return header, _read_pack_frames(stream, header)


def parse_pack_header(line: bytes) -> PackHeader:
    """Read the first line of a full pack's index.

    Raises:
        Malformed: It is not one, or of a version that is not known.
    """
    match parse_header_fields(line, _FORMAT, _VERSION):
        case {"contents": str(contents), "frames": frames, "length": length}:
            header = PackHeader(
                parse_sha256(contents), read_count(frames), read_count(length)
            )
        case _:
            raise Malformed(_FORMAT, "its header lacks a field")
    if encode_pack_header(header) != line:
        raise Malformed(_FORMAT, "its header has an unknown field")
    return header


def _read_pack_frames(stream: BinaryIO, header: PackHeader) -> Iterator[Frame]:
    count = offset = 0
    while line := stream.readline(MAX_LINE):
        frame = parse_pack_frame(line, offset)
        count += 1
        offset += frame.packed
        yield frame
    if (count, offset) != (header.frames, header.length):
        raise Malformed(_FORMAT, "the header counts other frames")


def parse_pack_frame(line: bytes, offset: int) -> Frame:
    """Read a line of a full pack's index that is not the first.

    Args:
        line: The line with its newline.
        offset: Where the frame begins in the pack.

    Raises:
        Malformed: It is not one.
    """
    match parse_line(line):
        case [digest, packed, size]:
            segment = Segment(0, 0, read_count(packed), read_count(size))
            frame = Frame(read_digest(digest), segment.size, None, offset, (segment,))
        case _:
            raise Malformed("index entry", "it is not of three fields")
    if encode_pack_frame(frame) != line:
        raise Malformed("index entry", "it is not written canonically")
    return frame


# --- ranges -------------------------------------------------------------------


class Range(NamedTuple):
    """A stretch of a pack.

    Attributes:
        offset: Its first byte.
        length: How many bytes.
    """

    offset: int
    length: int


def coalesce(
    wanted: Iterable[Range],
    max_requests: int = MAX_REQUESTS,
    close_gap: int = CLOSE_GAP,
) -> list[Range]:
    """Choose what to ask for so that few requests bring all that is wanted.

    Small gaps are cheaper to fetch than another request. Of the others the largest
    stay gaps, as many as the number of requests allows.

    Args:
        wanted: Stretches in the order of their offsets.
        max_requests: The most ranges to return, at least 1.
        close_gap: Bytes below which a gap is small.

    Returns:
        Ranges in order, with gaps between them.

    Raises:
        ValueError: The stretches are not in order, or ``max_requests`` is none.
    """
    if max_requests < 1:
        raise ValueError("at least one request is needed")
    ranges = _close_small_gaps(wanted, close_gap)
    gaps = [
        (after.offset - before.offset - before.length, number)
        for number, (before, after) in enumerate(pairwise(ranges), start=1)
    ]
    breaks = sorted(number for _, number in heapq.nlargest(max_requests - 1, gaps))
    bounds = [0, *breaks, len(ranges)] if ranges else []
    return [_span(ranges[first], ranges[end - 1]) for first, end in pairwise(bounds)]


def _close_small_gaps(wanted: Iterable[Range], close_gap: int) -> list[Range]:
    ranges: list[Range] = []
    for this in wanted:
        if not ranges:
            ranges.append(this)
            continue
        last = ranges[-1]
        gap = this.offset - last.offset - last.length
        if gap < 0:
            raise ValueError("the stretches are not in order")
        if gap < close_gap:
            ranges[-1] = _span(last, this)
        else:
            ranges.append(this)
    return ranges


def _span(first: Range, last: Range) -> Range:
    return Range(first.offset, last.offset + last.length - first.offset)
