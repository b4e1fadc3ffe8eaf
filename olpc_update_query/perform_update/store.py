"""What has been fetched: packs, ranges of packs, and whole contents.

All of it was written by an unprivileged user and nothing in it is believed: its
indexes are read only by processes that are as unprivileged as whoever wrote them,
and what they lead to is proven by its digest.
"""

import contextlib
import io
import os
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from olpc_update_query.errors import Malformed
from olpc_update_query.model.delta import MAX_HEADER, DeltaHeader, read_delta_index
from olpc_update_query.model.pack import Frame, read_pack_index, unpack_segment
from olpc_update_query.perform_update.copying import CHUNK
from olpc_update_query.perform_update.spans import (
    JOURNAL,
    LARGEST_JOURNAL,
    Spans,
    read_journal,
)
from olpc_update_query.perform_update.walk import (
    STEP,
    Descent,
    empty_directory,
    open_file,
)
from olpc_update_query.system.closing import Closing
from olpc_update_query.system.files import punch_hole

DELTA: Final = "delta"
INDEX: Final = "pack.index"
SPOOL: Final = "pack.spool"
HAVE: Final = f"{SPOOL}{JOURNAL}"
INSIDE: Final = "inside"
FILES: Final = "files"
CONTENTS: Final = b"contents"
_PROVEN: Final = "proven"
_MAKE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_CHANGE: Final = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_PACKED: Final = (DELTA, HAVE, INDEX, INSIDE, SPOOL)


class Piece(NamedTuple):
    """A content that lies, packed and complete, in a downloaded file.

    Attributes:
        frame: What its index says.
        file: `DELTA`, `SPOOL` or `INSIDE`.
        position: Where its first segment begins in that file.
    """

    frame: Frame
    file: str
    position: int


class Downloads(Closing):
    """What has been fetched for one build; all of it is untrusted.

    Args:
        directory: ``downloads/<sha256 of the manifest>``. It need not be there.
    """

    def __init__(self, directory: Path) -> None:
        self._top: int | None = None
        self._open: dict[str, int] = {}
        with contextlib.suppress(OSError):
            self._top = _open_below(directory)
            for name in _PACKED:
                with contextlib.suppress(OSError):
                    self._open[name] = open_file(os.fsencode(name), self._top)

    def close(self) -> None:
        """Close every file."""
        for descriptor in self._open.values():
            os.close(descriptor)
        self._open.clear()
        if self._top is not None:
            os.close(self._top)
            self._top = None

    def descriptors(self) -> dict[str, int]:
        """Return the open files by name; they stay owned here."""
        return dict(self._open)

    def open_plain(self, digest: bytes) -> int | None:
        """Open the file that is said to be a whole content; None if there is none."""
        with contextlib.suppress(OSError), self._files() as files:
            return open_file(digest.hex().encode(), files)
        return None

    def drop_plain(self, digest: bytes) -> None:
        """Delete the file that is said to be a whole content and is not."""
        with contextlib.suppress(OSError), self._files() as files:
            os.unlink(digest.hex(), dir_fd=files)

    @contextlib.contextmanager
    def _files(self) -> Iterator[int]:
        if self._top is None:
            raise FileNotFoundError(FILES)
        files = os.open(FILES, STEP, dir_fd=self._top)
        try:
            yield files
        finally:
            os.close(files)

    def open_manifest(self) -> int | None:
        """Open what is said to be the manifest; None if there is none."""
        if self._top is None:
            return None
        with contextlib.suppress(OSError):
            return open_file(CONTENTS, self._top)
        return None

    def release(self, file: str, start: int, end: int, proven: Iterable[bytes]) -> None:
        """Give a stretch of a packed file back to the disk.

        Whoever fetches finds an empty file named after each content, as if it had
        come whole: it is not fetched again unless the installer asks for it.

        Args:
            file: `DELTA` or `SPOOL`.
            start: Offset of the first byte.
            end: Offset behind the last.
            proven: Digests of the contents of it that are safe elsewhere.

        Raises:
            OSError: It cannot be done here.
        """
        with self._files() as files:
            with contextlib.suppress(FileExistsError):
                os.close(os.open(_PROVEN, _MAKE, 0o644, dir_fd=files))
            for digest in proven:
                with contextlib.suppress(FileExistsError):
                    os.link(
                        *(_PROVEN, digest.hex()),
                        src_dir_fd=files,
                        dst_dir_fd=files,
                        follow_symlinks=False,
                    )
        descriptor = os.open(file, _CHANGE, dir_fd=self._top)
        try:
            facts = os.fstat(descriptor)
            is_same = os.path.samestat(facts, os.fstat(self._open[file]))
            if is_same and facts.st_nlink == 1:  # nobody else's by another name
                punch_hole(descriptor, start, end)
        finally:
            os.close(descriptor)

    def discard_packs(self) -> None:
        """Delete everything but the manifest, once the tree has its name."""
        self.drop(*_PACKED)
        with contextlib.suppress(OSError), self._files() as files:
            empty_directory(os.dup(files))

    def discard(self) -> None:
        """Delete everything, once the build is installed."""
        if self._top is not None:
            empty_directory(os.dup(self._top))

    def discard_others(self) -> bool:
        """Delete what was fetched for other builds; say whether there was anything."""
        if self._top is None:
            return False
        here = os.fstat(self._top).st_ino
        above = os.open("..", STEP, dir_fd=self._top)
        found = False
        try:
            for name in os.listdir(above):
                with contextlib.suppress(NotADirectoryError):
                    other = os.open(name, STEP, dir_fd=above)
                    if os.fstat(other).st_ino == here:
                        os.close(other)
                        continue
                    empty_directory(other)
                    os.rmdir(name, dir_fd=above)
                    found = True
        finally:
            os.close(above)
        return found

    def drop(self, *names: str) -> None:
        """Delete files that gave wrong bytes, so that they are fetched again."""
        for name in names if self._top is not None else ():
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=self._top)

    def pieces(self, file: str, *, refuse: Collection[bytes] = ()) -> Iterator[Piece]:
        """Yield the complete contents of one packed file, in constant memory.

        Call it only in a process that may be taken over by what it reads.

        Args:
            file: `DELTA`, `SPOOL` or `INSIDE`; it need not be there.
            refuse: Digests for which a delta pack is not to be used: it, or the
                installed content it starts from, has proved to be damaged.

        Raises:
            Malformed: The index is damaged; what came before is good to try.
            CorruptContent: So is the packed index of a delta pack.
        """
        frames = self._spool_pieces() if file == SPOOL else self._delta_pieces(file)
        for piece in frames:
            if file == SPOOL or piece.frame.digest not in refuse:
                yield piece

    def _delta_pieces(self, file: str) -> Iterator[Piece]:
        if file in self._open:
            for frame in _delta_frames(self._open[file]):
                yield Piece(frame, file, frame.offset)

    def _spool_pieces(self) -> Iterator[Piece]:
        if not {INDEX, HAVE, SPOOL} <= self._open.keys():
            return
        have = _spans(self._open[HAVE], os.fstat(self._open[SPOOL]).st_size)
        with _reading(self._open[INDEX]) as index:
            for frame in read_pack_index(index)[1]:
                if have.covers(frame.offset, frame.offset + frame.packed):
                    yield Piece(frame, SPOOL, frame.offset)


def _open_below(directory: Path) -> int:
    """Open a directory whose last two steps belong to somebody else: no links there."""
    below = os.fsencode(Path(*directory.parts[-2:]))
    with Descent(directory.parent.parent) as descent:
        return os.dup(descent.enter(below))


def _delta_frames(descriptor: int) -> Iterator[Frame]:
    with _reading(descriptor) as stream:
        header = DeltaHeader.parse(stream.readline(MAX_HEADER + 1))
    if os.fstat(descriptor).st_size != header.length:
        raise Malformed("delta pack", "it is not as long as its header says")
    packed = Stretch(descriptor, header.index_offset, header.index_packed)
    lines = _Chunks(unpack_segment(packed.stream(), b"", header.index_size))
    with io.BufferedReader(lines, CHUNK) as index:
        yield from read_delta_index(index, header.frames_offset, header.length)


@contextlib.contextmanager
def _reading(descriptor: int) -> Iterator[BinaryIO]:
    """Read a file that stays open from its start, whoever else has read from it."""
    size = os.fstat(descriptor).st_size
    with Stretch(descriptor, 0, size).stream() as stream:
        yield stream


class Stretch(io.RawIOBase):
    """A stretch of an open file as a stream of its own; closing it closes nothing."""

    def __init__(self, descriptor: int, offset: int, length: int) -> None:
        super().__init__()
        self._descriptor, self._at, self._end = descriptor, offset, offset + length

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override] # narrower
        """Fill a buffer as far as the stretch and the file reach."""
        wanted = min(len(buffer), self._end - self._at)
        data = os.pread(self._descriptor, wanted, self._at) if wanted > 0 else b""
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def stream(self) -> BinaryIO:
        """Return it with a buffer."""
        return io.BufferedReader(self, CHUNK)


class _Chunks(io.RawIOBase):
    """Pieces of bytes as a stream."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        super().__init__()
        self._chunks, self._rest = chunks, memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override] # narrower
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._rest = memoryview(chunk)
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count


def _spans(journal: int, length: int) -> Spans:
    """Return which bytes of a file of this length have come, by its journal."""
    receipts = read_journal(os.pread(journal, LARGEST_JOURNAL, 0))
    return Spans((one.start, min(one.end, length)) for one in receipts)
