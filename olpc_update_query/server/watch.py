"""Files that are read again when they change.

The administrator edits the site's files beside the running server, by hand or with
``olpc-update-admin``. Each use compares the file's time, size and inode with what was
read last, which costs a microsecond; a file that has been damaged meanwhile is
reported, and the server goes on with what it read before.
"""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from olpc_update_query.errors import UpdateError

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

Signature = tuple[int, int, int]
"""Time of change in nanoseconds, size, inode."""


def signature(path: Path) -> Signature | None:
    """Return what tells this state of a file from others, None when it is absent."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


class Watched(Generic[_T]):
    """The parsed content of a file, as fresh as the file.

    Args:
        path: The file.
        parse: Makes the value of the file's bytes; None when there is no file.
    """

    def __init__(self, path: Path, parse: Callable[[bytes | None], _T]) -> None:
        self._path, self._parse = path, parse
        self._held: tuple[_T] | None = None
        self._seen: Signature | None = None
        self.problem: UpdateError | None = None

    def get(self) -> _T:
        """Return the value.

        Raises:
            UpdateError: The file cannot be used, and never could since the start.
        """
        seen = signature(self._path)
        held = self._held
        if held is not None and seen == self._seen:
            return held[0]
        return self._read()

    def _read(self) -> _T:
        seen, data = _load(self._path)
        try:
            self._held, self.problem = (self._parse(data),), None
        except UpdateError as error:
            if self._held is None:
                raise
            self.problem = error
            _log.warning("%s; going on with what it said before", error)
        self._seen = seen
        return self._held[0]


def _load(path: Path) -> tuple[Signature | None, bytes | None]:
    try:
        with open(path, "rb") as file:
            found = os.fstat(file.fileno())
            return (found.st_mtime_ns, found.st_size, found.st_ino), file.read()
    except FileNotFoundError:
        return None, None
