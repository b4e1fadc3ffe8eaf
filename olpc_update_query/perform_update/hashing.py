"""Hashing many files with two threads."""

import errno
import hashlib
import os
import queue
import threading
from collections import deque
from typing import Final

from olpc_update_query.model.manifest import Entry
from olpc_update_query.perform_update.differences import Aspect, Difference

_CHUNK: Final = 256 << 10
_SMALL: Final = 32 << 10  # below, handing a file over costs more than it brings
_WAITING: Final = 64  # files that may wait, open, for the other thread


class Hasher:
    """Compares the contents of open files with the digests they should have.

    Small files are hashed at once, large ones by a second thread, and by the first
    one again while the second has enough to do. (Reading and hashing leave Python's
    lock alone.)

    Args:
        told: Where to put what differs.
        cold: Whether to read from the medium what the kernel remembers.
    """

    def __init__(self, told: deque[Difference], *, cold: bool = False) -> None:
        self._told, self._cold = told, cold
        self._buffer = bytearray(_CHUNK)
        self._queue: queue.Queue[tuple[int, Entry] | None] = queue.Queue(_WAITING)
        self._failure: OSError | None = None
        self._thread: threading.Thread | None = None

    def take(self, descriptor: int, entry: Entry, size: int) -> None:
        """Compare a file, now or later; it is closed then.

        Raises:
            OSError: It cannot be read.
        """
        if size >= _SMALL:
            self._start()
            try:
                self._queue.put_nowait((descriptor, entry))
            except queue.Full:
                pass
            else:
                return
        self._compare(descriptor, entry, self._buffer)

    def finish(self) -> None:
        """Compare what still waits, and wait for what is being compared.

        Raises:
            OSError: A file could not be read.
        """
        while (job := self._next()) is not None:
            self._compare(*job, self._buffer)
        self._stop()
        if self._failure:
            raise self._failure

    def close(self) -> None:
        """Close the files that wait, without reading them."""
        while (job := self._next()) is not None:
            os.close(job[0])
        self._stop()

    def _next(self) -> tuple[int, Entry] | None:
        try:
            return self._queue.get_nowait()
        except queue.Empty:
            return None

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, daemon=True)
            self._thread.start()

    def _stop(self) -> None:
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None

    def _work(self) -> None:
        buffer = bytearray(_CHUNK)
        while (job := self._queue.get()) is not None:
            try:
                self._compare(*job, buffer)
            except OSError as failure:
                self._failure = failure

    def _compare(self, descriptor: int, entry: Entry, buffer: bytearray) -> None:
        try:
            if self._cold:
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            found = _digest_of(descriptor, buffer).hex()
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            found = "a part of the disk that cannot be read"
        finally:
            os.close(descriptor)
        wanted = entry.digest.hex()
        if found != wanted:
            self._told.append(
                Difference(entry.path, Aspect.CONTENT, wanted, found, entry.digest)
            )


def _digest_of(descriptor: int, buffer: bytearray) -> bytes:
    """Hash an open file from where it stands to its end."""
    left = os.fstat(descriptor).st_size
    digest = hashlib.sha256()
    view = memoryview(buffer)
    while left > 0 and (count := os.readv(descriptor, [buffer])):
        digest.update(view[:count])
        left -= count
    return digest.digest()
