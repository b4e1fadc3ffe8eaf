"""Delta packs: what a laptop that has one build needs to make another.

``docs/pack.md`` is the format's description. A delta pack is read from its first byte
to its last: a header line, the new manifest as patches of the old one, the index, and
the frames in the index's order.
"""

import io
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from olpc_update_query.errors import Malformed
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
from olpc_update_query.model.pack import (
    BASE_WINDOW,
    MAX_LINE,
    SEGMENT,
    Frame,
    Segment,
)
from olpc_update_query.model.wire import Sha256, parse_sha256

__all__ = ["MAX_HEADER", "DeltaHeader", "encode_delta_frame", "read_delta_index"]

_FORMAT = "olpc-update-delta"
_VERSION = 2


class DeltaHeader(NamedTuple):
    """The first line of a delta pack.

    Attributes:
        old: SHA-256 of the manifest that the pack starts from, hex.
        new: SHA-256 of the manifest that it leads to, hex.
        length: Length of the whole file in bytes.
        manifest: The new manifest, as patches of the old one's bytes.
        index_packed: Length of the index's zstd frame.
        index_size: Length of the index.
    """

    old: Sha256
    new: Sha256
    length: int
    manifest: tuple[Segment, ...]
    index_packed: int
    index_size: int

    def encode(self) -> bytes:
        """Return the line, the newline included."""
        fields: dict[str, Json] = {
            "from": self.old,
            "index": [self.index_packed, self.index_size],
            "length": self.length,
            "manifest": [list(segment) for segment in self.manifest],
            "to": self.new,
        }
        return canonical.encode([_FORMAT, _VERSION, fields]) + b"\n"

    @staticmethod
    def parse(line: bytes) -> "DeltaHeader":
        """Read the first line of a delta pack.

        Args:
            line: The line with its newline, at most `MAX_HEADER` bytes.

        Raises:
            Malformed: It is not one, or of a version that is not known.
        """
        header = _parse_fields(parse_header_fields(line, _FORMAT, _VERSION))
        if header.encode() != line:
            raise Malformed(_FORMAT, "its header has an unknown field")
        if header.frames_offset > header.length:
            raise Malformed(_FORMAT, "it is shorter than its parts")
        return header

    @property
    def manifest_offset(self) -> int:
        """Where the manifest's first segment begins in the file."""
        return len(self.encode())

    @property
    def manifest_size(self) -> int:
        """Length of the new manifest in bytes."""
        return sum(segment.size for segment in self.manifest)

    @property
    def index_offset(self) -> int:
        """Where the index's frame begins in the file."""
        return self.manifest_offset + sum(part.packed for part in self.manifest)

    @property
    def frames_offset(self) -> int:
        """Where the first content's frame begins in the file."""
        return self.index_offset + self.index_packed


def _parse_fields(fields: Json) -> DeltaHeader:
    match fields:
        case {
            "from": str(old),
            "index": [index_packed, index_size],
            "length": length,
            "manifest": list(manifest),
            "to": str(new),
        }:
            return DeltaHeader(
                parse_sha256(old),
                parse_sha256(new),
                read_count(length),
                tuple(_read_segment(segment) for segment in manifest),
                read_count(index_packed),
                read_count(index_size),
            )
        case _:
            raise Malformed(_FORMAT, "its header lacks a field")


def encode_delta_frame(frame: Frame) -> bytes:
    """Return the line of a delta pack's index for a content of any kind."""
    start = f'["{frame.digest.hex()}",{frame.size}'
    if frame.base is None and frame.inside is None:
        return f"{start},{frame.packed}]\n".encode()
    segments = ",".join(
        f"[{offset},{length},{packed},{size}]"
        for offset, length, packed, size in frame.segments
    )
    base = "" if frame.base is None else frame.base.hex()
    inside = "" if frame.inside is None else f",{frame.inside.encode()}"
    return f'{start},"{base}",[{segments}]{inside}]\n'.encode()


def read_delta_index(
    raw: bytes | BinaryIO, first_offset: int, end: int | None = None
) -> Iterator[Frame]:
    """Read the index of a delta pack, in constant memory.

    Args:
        raw: The index, expanded.
        first_offset: Where the first frame begins in the file
            (`DeltaHeader.frames_offset`).
        end: Where the last frame must end (`DeltaHeader.length`), to check it.

    Yields:
        The frames in the order in which they lie in the file.

    Raises:
        Malformed: A line is wrong, or the frames end elsewhere.
    """
    stream = io.BytesIO(raw) if isinstance(raw, bytes) else raw
    offset = first_offset
    while line := stream.readline(MAX_LINE):
        frame = _parse_delta_frame(line, offset)
        offset += frame.packed
        yield frame
    if end is not None and offset != end:
        raise Malformed(_FORMAT, "its frames do not fill the file")


def _parse_delta_frame(line: bytes, offset: int) -> Frame:
    match parse_line(line):
        case [digest, size, packed]:
            whole = Segment(0, 0, read_count(packed), read_count(size))
            frame = Frame(read_digest(digest), whole.size, None, offset, (whole,))
        case [digest, size, base, list(segments), *inside] if len(inside) < 2:
            frame = Frame(
                read_digest(digest),
                read_count(size),
                read_digest(base) if base else None,
                offset,
                tuple(_read_segment(segment) for segment in segments),
                Inside.parse(inside[0]) if inside else None,
            )
        case _:
            raise Malformed("index entry", "it is of no known kind")
    if encode_delta_frame(frame) != line:
        raise Malformed("index entry", "it is not written canonically")
    made = sum(segment.size for segment in frame.segments)
    if frame.inside is None and made != frame.size:
        raise Malformed("index entry", "its segments do not make up its size")
    return frame


def _read_segment(value: Json) -> Segment:
    if not isinstance(value, list) or len(value) != 4:
        raise Malformed("segment", "it is not of four numbers")
    segment = Segment(*(read_count(number) for number in value))
    if segment.base_length > BASE_WINDOW or segment.size > SEGMENT:
        raise Malformed("segment", "it needs more memory than a reader has to give")
    return segment
