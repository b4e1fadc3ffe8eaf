"""A build in a directory: a stick, or another disk."""

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from olpc_update_query import errors
from olpc_update_query.perform_update.spans import Span
from olpc_update_query.ports import Pieces, RangesRefused, Stream
from olpc_update_query.system.lent import is_gone, reach
from olpc_update_query.system.sticks import is_failing

_PIECE = 64 * 1024


class Unreadable(errors.NetworkError):
    """A directory is failing, or the stick that it was on was pulled out."""


def directory_of(url: str) -> Path | None:
    """Return the directory that a ``file:`` URL or an absolute path names.

    Where a directory was lent (``system.lent``), it is reached through that.
    """
    if url.startswith("/"):
        return reach(Path(url))
    parts = urlsplit(url)
    return reach(Path(unquote(parts.path))) if parts.scheme == "file" else None


class LocalFiles:
    """The files of one build in a directory (``spool.Files``).

    Args:
        url: How it is called in messages.
        directory: Where it is.
    """

    def __init__(self, url: str, directory: Path) -> None:
        self.url = url.rstrip("/")
        self._directory = directory

    def open(
        self,
        name: str,
        *,
        start: int = 0,
        length: int | None = None,
    ) -> Stream:
        """Open a file by its path in the build's directory.

        Raises:
            BuildNotFound: It is not there.
            Unreadable: The stick was pulled out, or fails.
            NetworkError: It may not be read, or is no file.
        """
        where = f"{self.url}/{name}"
        try:
            descriptor = os.open(
                self._directory / name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
            )
        except (FileNotFoundError, NotADirectoryError):
            if is_gone(self._directory):
                raise Unreadable(where, "it is not there any more") from None
            raise errors.BuildNotFound(where, "not there") from None
        except OSError as error:
            raise _unreadable(where, error) from error
        try:
            facts = os.fstat(descriptor)
        except OSError as error:
            os.close(descriptor)
            raise _unreadable(where, error) from error
        if not stat.S_ISREG(facts.st_mode):
            os.close(descriptor)
            raise errors.NetworkError(where, "not a file")
        is_partial = start < facts.st_size
        if not is_partial:
            start, length = 0, None
        chunks = _read(where, descriptor, start, length)
        return Stream(start, facts.st_size, chunks, is_partial=is_partial)

    def open_ranges(self, name: str, spans: Sequence[Span]) -> Pieces:
        """Refuse: what lies between spans costs nothing to read.

        Raises:
            RangesRefused: Always.
        """
        raise RangesRefused(f"{self.url}/{name}", f"{len(spans)} spans at once")


def _read(
    where: str, descriptor: int, start: int, length: int | None
) -> Iterator[bytes]:
    try:
        os.lseek(descriptor, start, os.SEEK_SET)
        while piece := os.read(descriptor, min(_PIECE, length or _PIECE)):
            if length is not None:
                length -= len(piece)
            yield piece
            if length == 0:
                return
    except OSError as error:
        raise _unreadable(where, error) from error
    finally:
        os.close(descriptor)


def _unreadable(where: str, error: OSError) -> errors.NetworkError:
    kind = Unreadable if is_failing(error) else errors.NetworkError
    return kind(where, f"cannot be read: {error.strerror}")
