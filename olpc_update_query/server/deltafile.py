"""Writes the format of delta packs: header, manifest, index, frames.

``docs/pack.md`` describes it.
"""

import io
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from mmap import mmap
from pathlib import Path
from shutil import copyfileobj
from typing import IO

from olpc_update_query.model.delta import DeltaHeader, encode_delta_frame
from olpc_update_query.model.pack import SEGMENT, Frame, Segment, pack_segment
from olpc_update_query.model.whole import PACK_LEVEL, pack_content
from olpc_update_query.server.archive import digest_of, iter_chunks, let_go
from olpc_update_query.server.bases import Windows
from olpc_update_query.system.closing import Closing

SPOOLED = 256 << 10
"""The most bytes of what is spooled that stay in memory."""

LINE = 48
"""Bytes that a patch costs more than a whole content in the packed index."""

_LEVEL = 19
_COPY = 1 << 20
_FEW = 64  # a patch of so small a part of its segment is small enough
_DIGEST = 40  # bytes that a digest and a number take in the packed index

Patched = Sequence[tuple[Segment, bytes]]


class DeltaWriter(Closing):
    """Puts a delta pack together: header, manifest, index, frames.

    Args:
        old: Directory of the build that it starts from.
        new: Directory of the build that it leads to; both have their manifests.
        work: Where what is large is kept meanwhile.
    """

    def __init__(self, old: Path, new: Path, work: Path) -> None:
        self._old, self._new = digest_of(old / "contents"), digest_of(new / "contents")
        self._index, self._body = spool((), work), spool((), work)

    def close(self) -> None:
        """Forget everything."""
        self._index.close()
        self._body.close()

    def add(self, frame: Frame, kept: IO[bytes]) -> None:
        """Add a frame, wherever it was before."""
        self._index.write(encode_delta_frame(frame))
        append(self._body, kept)

    def write(self, target: Path, manifest: Patched = ()) -> int:
        """Write the file and return its length.

        Args:
            target: The file.
            manifest: The new manifest's segments.
        """
        index_size, body = self._index.tell(), self._body.tell()
        self._index.seek(0)
        packed = b"".join(pack_well(iter_chunks(self._index), index_size))
        segments = tuple(segment for segment, _ in manifest)
        header = DeltaHeader(self._old, self._new, 0, segments, len(packed), index_size)
        self._body.seek(0)
        with open(target, "wb") as out:
            out.write(_with_length(header, body).encode())
            out.writelines(patch for _, patch in manifest)
            out.write(packed)
            copyfileobj(self._body, out)
            return out.tell()


def _with_length(header: DeltaHeader, body: int) -> DeltaHeader:
    """Fill in the file's length, whose digits are a part of it themselves."""
    while header.frames_offset + body != header.length:
        header = header._replace(length=header.frames_offset + body)
    return header


def patch(content: bytes | mmap, base: bytes | mmap) -> Iterator[tuple[Segment, bytes]]:
    """Yield the segments that make a content of its base, each with its bytes.

    Args:
        content: The content.
        base: What it is a patch of; may be empty.
    """
    windows = Windows(base, len(content))
    for offset in range(0, len(content), SEGMENT):
        raw = content[offset : offset + SEGMENT]
        start, length = windows.choose(raw, offset)
        packed = _pack_patch(raw, base[start : start + length])
        yield Segment(start, length, len(packed), len(raw)), packed
        let_go(content)
        let_go(base)


def _pack_patch(raw: bytes, base: bytes) -> bytes:
    """Pack a segment as well as it pays.

    The highest level takes seconds for a large base, and most where nearly everything
    is the same: there a lower one leaves next to nothing as well.
    """
    quick = pack_segment(raw, base, PACK_LEVEL)
    if len(quick) * _FEW <= len(raw):
        return quick
    return min(quick, pack_segment(raw, base, _LEVEL), key=len)


def pack_well(chunks: Iterable[bytes], size: int) -> Iterator[bytes]:
    """Yield a content packed as well as zstd can.

    Args:
        chunks: The content in pieces.
        size: Its length in bytes.
    """
    return pack_content(chunks, size, _LEVEL)


def spool(chunks: Iterable[bytes], directory: Path) -> IO[bytes]:
    """Keep pieces for a while, in memory or, when they are many, in a file.

    Args:
        chunks: The pieces.
        directory: Where the file is made; it has no name.

    Returns:
        A file at its first byte.
    """
    kept: IO[bytes] = tempfile.SpooledTemporaryFile(SPOOLED, dir=str(directory))  # noqa: SIM115 - it is returned
    with ExitStack() as stack:
        stack.callback(kept.close)
        for chunk in chunks:
            kept.write(chunk)
        kept.seek(0)
        stack.pop_all()
    return kept


def append(out: IO[bytes], kept: IO[bytes]) -> None:
    """Move what was spooled to the end of a file."""
    with kept:
        copyfileobj(kept, out, _COPY)


def size_of(kept: IO[bytes]) -> int:
    """Return how many bytes were spooled."""
    size = kept.seek(0, io.SEEK_END)
    kept.seek(0)
    return size


def is_packed(frame: Frame) -> bool:
    """Tell whether zstd could do nothing with a content: it may be compressed."""
    return frame.packed > frame.size * 7 // 8


def cost_of(frame: Frame) -> int:
    """Return about how many bytes a frame takes, its part of the index included."""
    copies = frame.inside.copies if frame.inside else ()
    return frame.packed + 2 * LINE + _DIGEST * len(copies)
