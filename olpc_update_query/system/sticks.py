"""Writing on somebody's stick: whoever made it may have laid out links in the way."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from olpc_update_query.system.files import disk_errors, write_all

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FRESH = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def leave_file(stick: Path, directory: str, name: str, data: bytes) -> None:
    """Put a file into a directory of a stick, whole or not at all, through no link.

    The file systems of sticks know neither modes nor links, so none are used. What a
    stick that was pulled out too early has left of an earlier try is removed.

    Args:
        stick: Where the stick is mounted.
        directory: The directory on it, made if need be.
        name: The file, of letters, digits and ``._+-``; an old one is replaced.
        data: The whole content.

    Raises:
        NoSpace, NotPermitted, DiskFailed: The stick is full, read-only or failing, or
            a link lies where the directory should be.
    """
    with disk_errors(stick / directory, needed=len(data)), _opened(stick) as top:
        with contextlib.suppress(FileExistsError):
            os.mkdir(directory, 0o755, dir_fd=top)
        with _opened(directory, top) as place:
            _replace(place, name, data)
        os.fsync(top)


@contextlib.contextmanager
def _opened(path: Path | str, above: int | None = None) -> Iterator[int]:
    """Open a directory: the stick's own by any path, those on it through no link."""
    flags = _DIRECTORY if above is None else _DIRECTORY | os.O_NOFOLLOW
    descriptor = os.open(path, flags, dir_fd=above)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _replace(place: int, name: str, data: bytes) -> None:
    fresh = f".{name}.new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(fresh, dir_fd=place)
    descriptor = os.open(fresh, _FRESH, 0o644, dir_fd=place)
    try:
        try:
            write_all(descriptor, data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.rename(fresh, name, src_dir_fd=place, dst_dir_fd=place)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(fresh, dir_fd=place)
        raise
    os.fsync(place)
