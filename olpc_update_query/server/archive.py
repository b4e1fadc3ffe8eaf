"""A published build, read again: for its contents, or for the frames they are in."""

import contextlib
import hashlib
import io
import os
import tempfile
from collections.abc import Container, Iterable, Iterator
from mmap import ACCESS_READ, MADV_DONTNEED, mmap
from pathlib import Path
from typing import IO, BinaryIO

from olpc_update_query.errors import CorruptContent, Malformed
from olpc_update_query.model.delta import MAX_HEADER, DeltaHeader, read_delta_index
from olpc_update_query.model.pack import (
    Frame,
    Segment,
    parse_pack_frame,
    read_pack_index,
    unpack_segment,
)
from olpc_update_query.model.whole import unpack_whole
from olpc_update_query.model.wire import Sha256
from olpc_update_query.system.closing import Closing

LINES = "pack.lines"
"""The index of a pack while it is written: what a kill leaves can be used again."""

IN_MEMORY = 8 << 20
"""Bytes of the largest content that is held in memory."""

_BUFFER = 256 << 10
_CHUNK = 1 << 20


class Archive(Closing):
    """The full pack of a published build.

    Several threads may read from it at once. Use as a context manager.

    Args:
        path: The build's directory.
        wanted: Digests of the contents to remember; None for all,
        without: but not these.

    Attributes:
        path: The same directory.
        contents: SHA-256 of the build's manifest, hex, as the index says.
        frames: Where each content lies, by digest.

    Raises:
        Malformed: Its index is not one.
        OSError: A file of it cannot be read.
    """

    def __init__(
        self,
        path: Path,
        wanted: Container[bytes] | None = None,
        without: Container[bytes] = (),
    ) -> None:
        self.path = path
        with open(path / "pack.index", "rb") as index:
            header, frames = read_pack_index(index)
            self.contents: Sha256 = header.contents
            self.frames: dict[bytes, Frame] = {
                frame.digest: frame
                for frame in frames
                if (wanted is None or frame.digest in wanted)
                and frame.digest not in without
            }
        self._pack = open(path / "pack", "rb", buffering=0)  # noqa: SIM115 - see close
        if os.fstat(self._pack.fileno()).st_size != header.length:
            self._pack.close()
            raise Malformed("pack", f"{path / 'pack'} is not as long as its index says")

    def close(self) -> None:
        """Close the pack."""
        self._pack.close()

    def packed(self, frame: Frame) -> BinaryIO:
        """Return a stream of a content's frame as it lies in the pack."""
        return open_stretch(self._pack.fileno(), frame.offset, frame.packed)

    def read(self, frame: Frame) -> bytes:
        """Return the frame of a content that is held in memory."""
        return os.pread(self._pack.fileno(), frame.packed, frame.offset)

    def unpack(self, frame: Frame) -> Iterator[bytes]:
        """Return a content in pieces, proving at the end that it is the one.

        Raises:
            CorruptContent: It is not.
        """
        digest = hashlib.sha256()
        for chunk in self._expanded(frame):
            digest.update(chunk)
            yield chunk
        if digest.digest() != frame.digest:
            name = f"{self.path.name}/pack at {frame.offset}"
            raise CorruptContent(name, frame.digest.hex(), digest.hexdigest())

    def _expanded(self, frame: Frame) -> Iterable[bytes]:
        if frame.size <= IN_MEMORY:
            return (unpack_whole(self.read(frame), frame.size),)
        return unpack_segment(self.packed(frame), b"", frame.size)

    @contextlib.contextmanager
    def hold(self, frame: Frame, work: Path | None = None) -> Iterator[bytes | mmap]:
        """Hold a whole content: in memory, or mapped when it is big.

        Args:
            frame: Its frame.
            work: Where a file for it is made, which has no name.

        Raises:
            CorruptContent: It is not what its digest says.
        """
        if frame.size <= IN_MEMORY:
            yield b"".join(self.unpack(frame))
            return
        with tempfile.TemporaryFile(dir=work) as file:
            file.writelines(self.unpack(frame))
            file.flush()
            with map_file(file) as content:
                yield content


class Unfinished(Archive):
    """A full pack that is being written; like `Archive`, but knows no frames.

    Args:
        path: The directory of the build that it is to be.
    """

    def __init__(self, path: Path) -> None:  # no index: the parent's does not fit
        self.path, self.contents, self.frames = path, Sha256(""), {}
        self._pack = open(path / "pack", "rb", buffering=0)  # noqa: SIM115 - see close


class Remains(Unfinished):
    """A full pack that somebody did not finish writing; like `Archive`.

    Args:
        path: The directory of the build that it was to be.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        size, offset = os.fstat(self._pack.fileno()).st_size, 0
        with open(path / LINES, "rb") as lines, contextlib.suppress(Malformed):
            for line in lines:
                frame = parse_pack_frame(line, offset)
                offset += frame.packed
                if offset > size:
                    break
                self.frames[frame.digest] = frame


class DeltaArchive(Closing):
    """A delta pack, or another of its format. Use as a context manager.

    Args:
        path: The file.

    Attributes:
        path: The same.
        header: Its first line.

    Raises:
        Malformed: It is not one.
        OSError: It cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = open(path, "rb")  # noqa: SIM115 - see close
        with contextlib.ExitStack() as on_error:
            on_error.callback(self._file.close)
            self.header = DeltaHeader.parse(self._file.readline(MAX_HEADER + 1))
            if self.header.length != os.fstat(self._file.fileno()).st_size:
                raise Malformed(path.name, "it is not as long as its header says")
            on_error.pop_all()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def frames(self) -> Iterator[Frame]:
        """Return the frames of the index.

        Raises:
            Malformed, CorruptContent: The index is damaged.
        """
        header = self.header
        whole = Segment(0, 0, header.index_packed, header.index_size)
        index = b"".join(self.expand(header.index_offset, [whole], b""))
        return read_delta_index(index, header.frames_offset, header.length)

    def packed(self, frame: Frame) -> BinaryIO:
        """Return a stream of a content's segments."""
        return open_stretch(self._file.fileno(), frame.offset, frame.packed)

    def expand(
        self, offset: int, segments: Iterable[Segment], base: bytes | mmap
    ) -> Iterator[bytes]:
        """Yield what segments make.

        Args:
            offset: Where the first one begins in the file.
            segments: The segments.
            base: What they are patches of.
        """
        for start, length, packed, size in segments:
            stream = open_stretch(self._file.fileno(), offset, packed)
            yield from unpack_segment(stream, base[start : start + length], size)
            offset += packed


def map_file(file: IO[bytes]) -> mmap:
    """Map a file that is not empty into memory, for reading."""
    return mmap(file.fileno(), 0, access=ACCESS_READ)


def let_go(content: bytes | mmap) -> None:
    """Give back the memory of what was read of a mapped file; it can be read again."""
    if isinstance(content, mmap):
        content.madvise(MADV_DONTNEED)


def open_stretch(descriptor: int, offset: int, length: int) -> BinaryIO:
    """Return a part of an open file as a stream of its own.

    Args:
        descriptor: The file. Its position is left alone.
        offset: Where the part begins.
        length: How many bytes it has.
    """
    return io.BufferedReader(_Stretch(descriptor, offset, length), _BUFFER)


class _Stretch(io.RawIOBase):
    """A part of an open file."""

    def __init__(self, descriptor: int, offset: int, length: int) -> None:
        super().__init__()
        self._descriptor, self._at, self._end = descriptor, offset, offset + length

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill the buffer as far as the part goes."""
        room = memoryview(buffer)[: self._end - self._at]
        count = os.preadv(self._descriptor, [room], self._at)
        self._at += count
        return count


def iter_chunks(file: IO[bytes]) -> Iterator[bytes]:
    """Read a file to its end in pieces."""
    while chunk := file.read(_CHUNK):
        yield chunk


def digest_of(path: Path) -> Sha256:
    """Return the SHA-256 of a file, hex."""
    with open(path, "rb") as file:
        return Sha256(hashlib.file_digest(file, "sha256").hexdigest())
