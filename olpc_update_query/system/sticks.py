"""Writing on somebody's stick: whoever made it may have laid out links in the way.

The file systems of sticks know neither modes nor owners nor links, so none are used.
Each file is there whole or not at all, also when the stick is pulled out too early.
"""

import contextlib
import errno
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from olpc_update_query import errors
from olpc_update_query.system.files import translated, write_all
from olpc_update_query.system.mounts import type_of_file_system

FAT_LIMIT: Final = (4 << 30) - 1
"""Bytes of the largest file on FAT."""

_FAT: Final = frozenset({"vfat", "msdos", "fuse.fusefat"})
_NO_FAILURE: Final = frozenset(
    {
        errno.EACCES,
        errno.EINVAL,
        errno.ELOOP,
        errno.ENAMETOOLONG,
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EPERM,
    }
)
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FRESH = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Stick(NamedTuple):
    """A stick, and how to tell that it still is the one that lies there.

    Attributes:
        path: Where it is mounted.
        device: Number of its file system. A desktop unmounts what is pulled out, and
            what lies there then is the disk below.
    """

    path: Path
    device: int

    @classmethod
    def at(cls, path: Path) -> "Stick":
        """Return the stick that is mounted there now.

        Raises:
            StickFailed: It cannot be read.
        """
        with stick_errors(path):
            return cls(path, os.stat(path).st_dev)


@contextlib.contextmanager
def stick_errors(path: Path, *, needed: int = 1) -> Iterator[None]:
    """Turn what the operating system says of a stick into our errors.

    Raises:
        NoSpace: As in ``disk_errors``.
        StickForbidden: The user may not do that.
        StickFailed: Any other refusal.
    """
    try:
        yield
    except OSError as error:
        raise refused(error, path, needed=needed) from error


def refused(error: OSError, path: Path, *, needed: int = 1) -> errors.UpdateError:
    """Return our error for one of the operating system's; see ``stick_errors``."""
    found = translated(error, path, needed)
    if isinstance(found, errors.NotPermitted):
        return errors.StickForbidden(found.path)
    if isinstance(found, errors.DiskFailed):
        return errors.StickFailed(found.path, found.found)
    return found


def is_failing(error: OSError) -> bool:
    """Tell whether it is the stick that refuses, not what lies on it."""
    return error.errno not in _NO_FAILURE


@contextlib.contextmanager
def directory_on(stick: Stick, *names: str) -> Iterator[int]:
    """Open a directory of a stick through no link, made if need be.

    Args:
        stick: The stick.
        names: The directory on it, one name a level; none for the stick's top.

    Yields:
        Its descriptor.

    Raises:
        OSError: It cannot be made, or a link or a file lies in its place, or the stick
            is not there any more.
    """
    descriptor = os.open(stick.path, _DIRECTORY)
    try:
        if os.fstat(descriptor).st_dev != stick.device:
            raise OSError(errno.ENODEV, "it is not mounted any more", str(stick.path))
        for name in names:
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o755, dir_fd=descriptor)
                os.fsync(descriptor)
            above = descriptor
            descriptor = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=above)
            os.close(above)
        yield descriptor
    finally:
        os.close(descriptor)


def leave_file(stick: Stick, path: str, data: bytes) -> None:
    """Put a file on a stick, over an old one, whole or not at all, through no link.

    Args:
        stick: The stick.
        path: The file's path on it; directories are made if need be.
        data: The whole content.

    Raises:
        NoSpace, StickForbidden, StickFailed: The stick is full, read-only, failing or
            gone, or a link lies in the way.
    """
    *above, name = path.split("/")
    with (
        stick_errors(stick.path / path, needed=len(data)),
        directory_on(stick, *above) as place,
    ):
        write_file(place, name, [data])


def write_file(place: int, name: str, chunks: Iterable[bytes]) -> None:
    """Write a file in an open directory, whole or not at all.

    What an earlier try has left, whose stick was pulled out too early, is removed.

    Args:
        place: The directory's descriptor.
        name: The file's name in it.
        chunks: The content.

    Raises:
        OSError: See ``disk_errors``; nothing is left behind.
    """
    fresh = f".{name}.new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(fresh, dir_fd=place)
    descriptor = os.open(fresh, _FRESH, 0o644, dir_fd=place)
    try:
        try:
            for chunk in chunks:
                write_all(descriptor, chunk)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.rename(fresh, name, src_dir_fd=place, dst_dir_fd=place)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(fresh, dir_fd=place)
        raise
    os.fsync(place)


def remove_leftovers(place: int) -> None:
    """Remove what was being written in an open directory when a stick was pulled out.

    Raises:
        OSError: See ``disk_errors``.
    """
    for name in os.listdir(place):
        if name.startswith(".") and name.endswith(".new"):
            os.unlink(name, dir_fd=place)


def is_fat(path: Path) -> bool:
    """Tell whether a directory is on FAT, which holds no file of 4 GiB."""
    return type_of_file_system(path) in _FAT
