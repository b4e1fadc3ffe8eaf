"""Spools: downloads whose length is their progress.

A spool is only ever appended to, and what was appended is on the disk at the latest
64 KiB later: a cut link or a power cut costs no more than that. It goes on with one
server where it stopped with another. The last bytes that it has are asked for once
more and compared, unless the server itself vouches that the file is still the same.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from olpc_update_query import errors
from olpc_update_query.model import canonical
from olpc_update_query.ports import Clock, Stream
from olpc_update_query.system.closing import Closing
from olpc_update_query.system.files import (
    disk_errors,
    free_bytes,
    fsync_directory,
    read_bounded,
    write_all,
)

SYNC_EVERY = 64 * 1024
OVERLAP = 4 * 1024  # compared when nobody vouches for the rest
PAUSE = 1.0  # seconds before a server is asked for the rest
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
        validator: str | None = None,
    ) -> Stream:
        """Open a file of the build, by its path there; see ``ports.Transport.get``."""


class AnotherFile(errors.NetworkError):
    """A server has another file than the one that a spool is a part of."""


_FINAL = (AnotherFile, errors.BuildNotFound, errors.NoAnswer, errors.ProxyRefused)


class Spool(Closing):
    """A file that is appended to, perhaps in several runs.

    Attributes:
        path: Where it is.
        size: Its length: the progress.
        reached: The greatest length it has had since it was opened, to tell a
            download that moves from one that starts over again and again.
    """

    def __init__(self, path: Path) -> None:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self.path = path
        with disk_errors(path):
            self._descriptor = os.open(path, flags, 0o644)
            self.size = self.reached = os.fstat(self._descriptor).st_size
        self._unsynced = 0

    def close(self) -> None:
        """Write out what has come, and close the file."""
        with contextlib.suppress(OSError):
            os.fdatasync(self._descriptor)
        os.close(self._descriptor)

    def append(self, data: bytes) -> None:
        """Add bytes.

        Raises:
            TreeError: The disk is full or failing.
        """
        with disk_errors(self.path, needed=len(data)):
            write_all(self._descriptor, data)
        self.size += len(data)
        self.reached = max(self.reached, self.size)
        self._unsynced += len(data)
        if self._unsynced >= SYNC_EVERY:
            self.sync()

    def sync(self) -> None:
        """Have everything on the disk."""
        with disk_errors(self.path):
            os.fdatasync(self._descriptor)
        self._unsynced = 0

    def read(self, offset: int, length: int) -> bytes:
        """Read a stretch; shorter at the end of the spool."""
        with disk_errors(self.path):
            return os.pread(self._descriptor, length, offset)

    def cut(self, size: int) -> None:
        """Drop everything from ``size`` on."""
        with disk_errors(self.path):
            os.ftruncate(self._descriptor, size)
        self.size = size

    def finish(self, name: str) -> None:
        """Give the complete spool its final name beside it, for good."""
        self.sync()
        with disk_errors(self.path):
            os.rename(self.path, self.path.with_name(name))
            _note(self.path).unlink(missing_ok=True)
            fsync_directory(self.path.parent)

    def remove(self) -> None:
        """Delete it: what was in it has been used."""
        with disk_errors(self.path):
            for path in (_note(self.path), self.path):
                path.unlink(missing_ok=True)

    def remember(self, url: str, validator: str | None) -> None:
        """Note which version of which file this is a part of.

        Not worth a sync: a lost or torn note costs an overlap.
        """
        words = canonical.encode([url, validator])
        with disk_errors(self.path):
            _note(self.path).write_bytes(words)

    def recall(self, url: str) -> str | None:
        """Return what vouches for the rest of the file at ``url``, if anything."""
        try:
            found = canonical.decode(read_bounded(_note(self.path), 8192))
        except (OSError, ValueError, errors.Malformed):
            return None
        match found:
            case [str(whose), str(validator)] if whose == url:
                return validator
        return None


def _note(path: Path) -> Path:
    return path.with_name(f"{path.name}.origin")


def persist(spool: Spool, clock: Clock, attempt: Callable[[], None]) -> None:
    """Repeat an attempt while each one brings the spool further than any before.

    No counter ends a download that moves; one that stands still, or begins from the
    start again and again, ends at once.

    Raises:
        NetworkError: What the last attempt raised.
    """
    while True:
        reached = spool.reached
        try:
            return attempt()
        except _FINAL:
            raise
        except errors.NetworkError:
            if spool.reached <= reached:
                raise
        clock.sleep(PAUSE)


class Feed(Closing):
    """The bytes of one file at a place, from an offset on.

    Attributes:
        position: Offset of the byte that comes next.
        total: Length of the file, where it is known.
        validator: What names this version of it.
        is_ranged: Whether it began where it was asked to.
    """

    def __init__(
        self,
        files: Files,
        name: str,
        start: int = 0,
        length: int | None = None,
        validator: str | None = None,
    ) -> None:
        self.url = f"{files.url}/{name}"
        stream = files.open(name, start=start, length=length, validator=validator)
        if stream.start not in {0, start}:
            raise errors.NetworkError(self.url, "the bytes of another offset came")
        self.position, self.total = stream.start, stream.total
        self.validator = stream.validator
        self.is_ranged = stream.start == start
        self._chunks: Iterator[bytes] = stream.chunks
        self._left = b""

    def close(self) -> None:
        """Let go of the connection."""
        close = getattr(self._chunks, "close", None)
        if close is not None:
            close()

    def read(self, end: int | None = None) -> Iterator[bytes]:
        """Yield the bytes up to offset ``end``, or all there are.

        Raises:
            NetworkError: The link failed, or the file ended before.
        """
        while end is None or self.position < end:
            chunk = self._left or next(self._chunks, b"")
            if not chunk:
                break
            room = len(chunk) if end is None else end - self.position
            self._left = chunk[room:]
            self.position += len(chunk[:room])
            yield chunk[:room]
        if end is not None and self.position < end:
            reason = f"it ends after {self.position} bytes, not {end}"
            raise errors.NetworkError(self.url, reason)

    def unread(self, data: bytes) -> None:
        """Take back the last bytes that were read."""
        self.position -= len(data)
        self._left = data + self._left


def resume(files: Files, name: str, spool: Spool) -> Feed:
    """Open the file of which the spool is the beginning, where the spool ends.

    Where the file differs from the spool, the spool loses everything from there on.

    Raises:
        NetworkError: The link failed.
    """
    feed = _open(files, name, spool, spool.size, spool.size, None)
    try:
        began = feed.position
        parted = _compare(feed, spool, 0, 0)
        if parted is not None and began > 0:
            feed.close()
            spool.cut(0)
            feed = Feed(files, name)
        elif parted is not None:
            spool.cut(parted)
        spool.remember(feed.url, feed.validator)
    except BaseException:
        feed.close()
        raise
    return feed


def resume_range(
    files: Files, name: str, spool: Spool, known: int, position: int, length: int
) -> Feed:
    """Open a range of a file of which the spool ends with the beginning.

    Args:
        files: The place.
        name: The file.
        spool: What has been fetched.
        known: How many of the spool's last bytes lie just before the range.
        position: Offset in the file of the first byte that is wanted.
        length: How many bytes are wanted.

    Raises:
        AnotherFile: What is known differs.
        NetworkError: The link failed.
    """
    feed = _open(files, name, spool, known, position, length)
    try:
        parted = _compare(feed, spool, position - spool.size, position - known)
        spool.remember(feed.url, feed.validator)
    except BaseException:
        feed.close()
        raise
    if parted is not None:
        feed.close()
        raise AnotherFile(feed.url, "it is another file than before")
    return feed


def _open(
    files: Files, name: str, spool: Spool, known: int, position: int, length: int | None
) -> Feed:
    """Ask for a file from a little before ``position``.

    One byte more than needed is always asked for where there is one: nobody can send
    the part of a file that begins at its end.
    """
    validator = spool.recall(f"{files.url}/{name}") if known else None
    overlap = min(known, 1 if validator else OVERLAP)
    wanted = None if length is None else length + overlap
    return Feed(files, name, position - overlap, wanted, validator)


def _compare(feed: Feed, spool: Spool, shift: int, first: int) -> int | None:
    """Read what the spool has as well; return where in the spool the two part.

    Args:
        feed: Is left at the spool's end, or where the two part.
        spool: What there is.
        shift: Offset in the file minus offset in the spool.
        first: Offset in the file of the first byte that the spool has.
    """
    for _ in feed.read(first):
        pass
    end = spool.size + shift
    if feed.total is not None and feed.total < end:
        end = feed.total
    at = feed.position - shift
    for chunk in feed.read(end):
        ours = spool.read(at, len(chunk))
        if ours != chunk:
            same = _common_length(ours, chunk)
            feed.unread(chunk[same:])
            return at + same
        at += len(chunk)
    return at if at < spool.size else None


def _common_length(one: bytes, other: bytes) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((n for n, (a, b) in pairs if a != b), min(len(one), len(other)))


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
