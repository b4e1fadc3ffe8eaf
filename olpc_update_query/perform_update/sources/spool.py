"""Spools: downloads that know which of their bytes have come, and from whom.

Bytes may come in any order and from several sources at once. What came is on the disk
at the latest 64 KiB or half a second later, and the journal beside the spool says so:
a cut link or a power cut costs no more than that. A source that has shown nothing of
the file yet is asked for the last bytes before a gap once more, and they are compared.
"""

import contextlib
import os
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from olpc_update_query import errors
from olpc_update_query.perform_update.sources.landmarks import Landmarks
from olpc_update_query.perform_update.spans import (
    JOURNAL,
    LARGEST_JOURNAL,
    Receipt,
    Span,
    Spans,
    read_journal,
)
from olpc_update_query.ports import Pieces, Stream
from olpc_update_query.system.closing import Closing
from olpc_update_query.system.files import (
    disk_errors,
    free_bytes,
    fsync_directory,
    read_bounded,
    write_all,
)

SYNC_EVERY = 48 * 1024  # with the 16 KiB that come at once: 64 KiB at stake
SYNC_SECONDS = 0.5  # at the latest, so that a slow link has less at stake
OVERLAP = 1024  # compared before a source is believed to have the same file
RESERVE = 1024 * 1024  # left free on the disk for state and logs


class Files(Protocol):
    """A place that has the files of one build.

    Attributes:
        url: The place, for messages, and to tell it from others.
    """

    url: str

    def open(
        self,
        name: str,
        *,
        start: int = 0,
        length: int | None = None,
    ) -> Stream:
        """Open a file of the build, by its path there; see ``ports.Transport.get``."""

    def open_ranges(self, name: str, spans: Sequence[Span]) -> Pieces:
        """Open spans of it; see ``ports.Transport.get_ranges``."""


class AnotherFile(errors.NetworkError):
    """A server has another file than the one that a spool is a part of."""


class Spool(Closing):
    """A file that is filled, perhaps in several runs and by several threads.

    Attributes:
        path: Where it is.
        have: Which of its bytes have come.
        receipts: Who gave them, in the order in which they came.
        length: How long the file will be, once a source has said it.
        marks: What is known beforehand of bytes in it.
    """

    def __init__(self, path: Path) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self.path, self._journal = path, path.with_name(path.name + JOURNAL)
        self.length: int | None = None
        self.marks = Landmarks()
        self._lock = threading.Lock()
        with disk_errors(path):
            self._descriptor = os.open(path, flags, 0o644)
            self.receipts = self._read_journal()
        self.have = Spans((one.start, one.end) for one in self.receipts)
        self._written: list[Receipt] = []
        self._unsynced, self._synced = 0, time.monotonic()

    def _read_journal(self) -> list[Receipt]:
        size = os.fstat(self._descriptor).st_size
        try:
            raw = read_bounded(self._journal, LARGEST_JOURNAL)
        except (OSError, ValueError):
            return []
        whole = raw.rfind(b"\n") + 1
        if whole < len(raw):  # or the next line would go on in the middle of a torn one
            os.truncate(self._journal, whole)
        found: list[Receipt] = []
        for one in read_journal(raw):
            _note(found, one._replace(end=min(one.end, size)))
        return found

    def close(self) -> None:
        """Write out what has come, and close the file."""
        with contextlib.suppress(errors.UpdateError):
            self.sync()
        os.close(self._descriptor)

    @property
    def size(self) -> int:
        """Up to where it has come without a gap."""
        return self.have.reach(0)

    def write(self, start: int, data: bytes, giver: str) -> None:
        """Put bytes where they belong; what is there already stays.

        Raises:
            TreeError: The disk is full or failing.
        """
        with self._lock, disk_errors(self.path, needed=len(data)):
            for gap in self.have.gaps(start, start + len(data)):
                os.lseek(self._descriptor, gap.start, os.SEEK_SET)
                write_all(self._descriptor, data[gap.start - start : gap.end - start])
                self.have.add(gap.start, gap.end)
                _note(self._written, Receipt(gap.start, gap.end, giver))
                self._unsynced += gap.end - gap.start
            if self._unsynced >= SYNC_EVERY or self._is_due():
                self._sync()

    def _is_due(self) -> bool:
        return time.monotonic() - self._synced >= SYNC_SECONDS

    def sync_when_due(self) -> None:
        """Have on the disk what came half a second ago, though nothing comes now.

        Raises:
            TreeError: The disk is full or failing.
        """
        if self._written and self._is_due():
            self.sync()

    def sync(self) -> None:
        """Have everything on the disk.

        Raises:
            TreeError: The disk is full or failing.
        """
        with self._lock, disk_errors(self.path):
            self._sync()

    def _sync(self) -> None:
        if not self._written:
            return
        os.fdatasync(self._descriptor)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        journal = os.open(self._journal, flags, 0o644)
        try:
            write_all(journal, b"".join(one.encode() for one in self._written))
            os.fdatasync(journal)
        finally:
            os.close(journal)
        for one in self._written:
            _note(self.receipts, one)
        self._written.clear()
        self._unsynced, self._synced = 0, time.monotonic()

    def read(self, offset: int, length: int) -> bytes:
        """Read a stretch as far as it has come without a gap."""
        with self._lock:
            end = min(offset + length, self.have.reach(offset))
        with disk_errors(self.path):
            return os.pread(self._descriptor, end - offset, offset)

    def clear(self) -> None:
        """Drop everything that has come."""
        with self._lock, disk_errors(self.path):
            self._journal.unlink(missing_ok=True)
            os.ftruncate(self._descriptor, 0)
            self.have, self.length = Spans(), None
            self.receipts.clear()
            self._written.clear()
            self._unsynced = 0

    def finish(self, name: str) -> None:
        """Give the complete spool its final name beside it, for good."""
        self.sync()
        with disk_errors(self.path):
            os.rename(self.path, self.path.with_name(name))
            self._journal.unlink(missing_ok=True)
            fsync_directory(self.path.parent)

    def remove(self) -> None:
        """Delete it: what was in it has been used."""
        self._written.clear()
        with disk_errors(self.path):
            for path in (self._journal, self.path):
                path.unlink(missing_ok=True)

    def adopt(self, giver: str) -> None:
        """Take what lies there without a journal for what has come."""
        with self._lock, disk_errors(self.path):
            size = os.fstat(self._descriptor).st_size
            if not self.have.total and size:
                self.have.add(0, size)
                self._written.append(Receipt(0, size, giver))
                self._sync()

    def forget(self) -> None:
        """Drop the journal: the file is complete, and stands for itself."""
        self.sync()
        with disk_errors(self._journal):
            self._journal.unlink(missing_ok=True)

    def fileno(self) -> int:
        """Return the open file."""
        return self._descriptor

    def givers(self, start: int, end: int) -> set[str]:
        """Return who gave any of the bytes from ``start`` up to ``end``."""
        given = (*self.receipts, *self._written)
        return {one.url for one in given if one.start < end and start < one.end}


def _note(receipts: list[Receipt], one: Receipt) -> None:
    """Add a receipt; one that goes on where the last one ended continues it."""
    if one.start >= one.end:
        return
    if receipts and (receipts[-1].end, receipts[-1].url) == (one.start, one.url):
        one = receipts.pop()._replace(end=one.end)
    receipts.append(one)


class Feed(Closing):
    """The bytes of one file at a place: of one span, or of several at once.

    Args:
        files: The place.
        name: The file, by its path there.
        spans: What of it to ask for, in order.

    Attributes:
        position: Offset of the byte that comes next.
        total: Length of the file, where it is known.
        is_ranged: Whether no more than what was asked for comes.
    """

    def __init__(self, files: Files, name: str, spans: Sequence[Span]) -> None:
        self.url = f"{files.url}/{name}"
        self._pieces: Iterator[tuple[int, bytes]] | None = None
        self._chunks: Iterator[bytes] = iter(())
        self.total: int | None
        start, end = spans[0]
        if len(spans) > 1:
            pieces = files.open_ranges(name, spans)
            self.position, self.total, self.is_ranged = start, pieces.total, True
            self._pieces = pieces.chunks
            return
        stream = files.open(name, start=start, length=end - start)
        if stream.start not in {0, start}:
            raise errors.NetworkError(self.url, "the bytes of another offset came")
        self.position, self.total = stream.start, stream.total
        self.is_ranged, self._chunks = stream.is_partial, stream.chunks

    def close(self) -> None:
        """Let go of the connection."""
        close = getattr(self._pieces or self._chunks, "close", None)
        if close is not None:
            close()

    def read(self) -> Iterator[tuple[int, bytes]]:
        """Yield the bytes as they come, each piece with its offset.

        Raises:
            NetworkError: The link failed.
        """
        if self._pieces is not None:
            for at, chunk in self._pieces:
                self.position = at + len(chunk)
                yield at, chunk
            return
        for chunk in self._chunks:
            self.position += len(chunk)
            yield self.position - len(chunk), chunk


def differs(spool: Spool, start: int, data: bytes) -> bool:
    """Say whether bytes that came are not those that came before, or have to come."""
    if spool.marks.contradict(start, data):
        return True
    end = start + len(data)
    at = start
    while at < end:
        ours = spool.read(at, end - at)
        if ours != data[at - start : at - start + len(ours)]:
            return True
        at += len(ours)
        gaps = spool.have.gaps(at, end)
        at = gaps[0].end if gaps else max(at, end)
    return False


def need_room(path: Path, size: int) -> None:
    """Refuse to begin a download that cannot fit.

    Raises:
        NoSpace: Fewer than ``size`` bytes, and a reserve, are free.
    """
    free = free_bytes(path)
    if size + RESERVE > free:
        raise errors.NoSpace(str(path), size + RESERVE, free)


def most_packed(size: int) -> int:
    """Return how long what zstd makes of ``size`` bytes can be at most."""
    return size + size // 128 + 1024
