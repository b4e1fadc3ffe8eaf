"""Reaching into trees by directory descriptor, never through a symbolic link.

A tree that is being built, checked or deleted may hold anything, a link to ``/etc``
in the place of a directory included. So every step from a directory into another
one is an open with ``O_NOFOLLOW`` relative to a descriptor, and names are only ever
used together with the descriptor of the directory that they are in.
"""

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from olpc_update_query.system.closing import Closing

STEP = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
KEEP = 48
_CLOSED = -1


class Descent(Closing):
    """Opens directories of one tree, most cheaply in path order.

    The descriptors of the latest directory and of those above it are kept, but never
    more than ``keep``: a tree may be nested deeper than a process may open files.

    Args:
        top: The tree's own directory, or a descriptor of it that is now owned here.
        keep: How many descriptors may be open, at least 2.
    """

    def __init__(self, top: Path | int, *, keep: int = KEEP) -> None:
        self._top = top if isinstance(top, int) else os.open(top, STEP)
        self._keep = keep
        self._here = b""
        self._latest = self._top
        self._parts: list[bytes] = []
        self._fds: list[int] = []
        self._first_open = 0

    def close(self) -> None:
        """Close every descriptor."""
        self._cut(0)
        if self._top != _CLOSED:
            os.close(self._top)
            self._top = _CLOSED

    def enter(self, directory: bytes) -> int:
        """Return a descriptor of a directory of the tree.

        Args:
            directory: Its path relative to the tree, ``b""`` for the tree's own.

        Returns:
            A descriptor that is good until the next call.

        Raises:
            OSError: It is not there, or a step on the way is not a directory
                (ENOTDIR, also for a symbolic link).
        """
        if directory == self._here:
            return self._latest
        parts = directory.split(b"/") if directory else []
        self._cut(_common(self._parts, parts))
        try:
            for name in parts[len(self._parts) :]:
                self._step(name)
        finally:
            self._here = b"/".join(self._parts)
            self._latest = self._fds[-1] if self._fds else self._top
        return self._latest

    def _step(self, name: bytes) -> None:
        """Go one directory deeper; the shallowest descriptor may have to go."""
        above = self._fds[-1] if self._fds else self._top
        self._fds.append(os.open(name, STEP, dir_fd=above))
        self._parts.append(name)
        if len(self._fds) - self._first_open > self._keep - 1:
            os.close(self._fds[self._first_open])
            self._fds[self._first_open] = _CLOSED
            self._first_open += 1

    def _cut(self, depth: int) -> None:
        """Go up to ``depth``; open that directory again if it had to be closed."""
        for descriptor in self._fds[depth:]:
            if descriptor != _CLOSED:
                os.close(descriptor)
        del self._fds[depth:], self._parts[depth:]
        self._first_open = min(self._first_open, depth)
        if self._fds and self._fds[-1] == _CLOSED:
            again, self._parts, self._fds = self._parts, [], []
            self._first_open = 0
            for name in again:
                self._step(name)


def _common(left: list[bytes], right: list[bytes]) -> int:
    """Return how many first parts two paths have in common."""
    count = 0
    for one, other in zip(left, right, strict=False):
        if one != other:
            break
        count += 1
    return count


def open_file(name: bytes, directory: int) -> int:
    """Open a regular file of a directory for reading, not through a link.

    Raises:
        OSError: It is not there, not readable, or not a regular file (ENOTDIR).
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(name, flags, dir_fd=directory)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise NotADirectoryError(f"{name!r} is not a regular file")
    return descriptor


@contextlib.contextmanager
def opened(path: Path) -> Iterator[int]:
    """Hold a descriptor of a directory that is named by a trusted path."""
    descriptor = os.open(path, STEP)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def remove_tree(path: Path) -> None:
    """Remove a tree, a file, a link or nothing.

    Works with any nesting, and for an ordinary user also in directories that forbid
    writing. Mode and content of files are left alone: other trees may link to them.

    Raises:
        OSError: Something cannot be removed.
    """
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
    except (IsADirectoryError, PermissionError):
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            raise
        _unlock(path, None)
        empty_directory(os.open(path, STEP))
        os.rmdir(path)


def empty_directory(top: int) -> None:
    """Remove everything in a directory, and close its descriptor.

    Each level's directories wait on a list, not on the stack: nesting may be deep.

    Raises:
        OSError: Something cannot be removed.
    """
    with Descent(top) as tree:
        levels = [(b"", _unlink_files(tree.enter(b"")))]
        while levels:
            where, directories = levels[-1]
            if directories:
                inner = where + b"/" + directories.pop() if where else directories.pop()
                parent, _, name = inner.rpartition(b"/")
                _unlock(name, tree.enter(parent))
                levels.append((inner, _unlink_files(tree.enter(inner))))
                continue
            levels.pop()
            if where:
                parent, _, name = where.rpartition(b"/")
                os.rmdir(name, dir_fd=tree.enter(parent))


def _unlink_files(directory: int) -> list[bytes]:
    """Remove everything but directories; return the names of those."""
    kept: list[bytes] = []
    with os.scandir(directory) as found:
        items = [(os.fsencode(i.name), i.is_dir(follow_symlinks=False)) for i in found]
    for name, is_directory in items:
        if is_directory:
            kept.append(name)
        else:
            os.unlink(name, dir_fd=directory)
    return kept


def _unlock(name: bytes | Path, directory: int | None) -> None:
    """Let an ordinary user into his own directory, to empty it."""
    if os.geteuid() == 0:
        return
    facts = os.stat(name, dir_fd=directory, follow_symlinks=False)
    if facts.st_mode & stat.S_IRWXU != stat.S_IRWXU:
        os.chmod(name, 0o700, dir_fd=directory)  # a directory has no second name
