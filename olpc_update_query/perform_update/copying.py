"""Writing and copying the bytes of files: holes stay holes, clones stay clones."""

import contextlib
import errno
import fcntl
import os
import shutil
import tempfile
from pathlib import Path
from typing import Final

from olpc_update_query.system.files import fsync_directory, sync_filesystem

BLOCK: Final = 4096
CHUNK: Final = 256 << 10
SMALL: Final = 64 << 10
"""Bytes up to which a file is copied although it might be cloned."""
_ZEROS: Final = bytes(BLOCK)
_FICLONE: Final = 0x40049409
_CANNOT: Final = {
    errno.EOPNOTSUPP,
    errno.ENOTTY,
    errno.EXDEV,
    errno.EINVAL,
    errno.ENOSYS,
    errno.EPERM,
}


def write_sparse(descriptor: int, data: bytes | memoryview, offset: int) -> None:
    """Write data at an offset, leaving out the blocks that are all zero.

    The caller gives the file its size in the end, and the file has to be new: what
    is left out is not written over.
    """
    view = memoryview(data)
    start = at = 0
    while at < len(view):
        length = min(BLOCK - (offset + at) % BLOCK, len(view) - at)
        if not view[at] and view[at : at + length] == _ZEROS[:length]:
            _write(descriptor, view[start:at], offset + start)
            start = at + length
        at += length
    _write(descriptor, view[start:], offset + start)


def _write(descriptor: int, view: memoryview, offset: int) -> None:
    while view:
        done = os.pwrite(descriptor, view, offset)
        view, offset = view[done:], offset + done


class Copier:
    """Copies the content of one open file into another, new one.

    Whether the file system can clone and whether the kernel can copy by itself is
    learned from the first refusal.
    """

    def __init__(self) -> None:
        self._can_clone = self._can_copy = True

    def copy(self, source: int, target: int) -> int:
        """Copy everything; return the number of bytes.

        Raises:
            OSError: The disk is full or failing.
        """
        facts = os.fstat(source)
        size = facts.st_size
        if size > SMALL:
            if self._clone(source, target):
                return size
            if facts.st_blocks * 512 >= size and self._copy_inside(
                source, target, size
            ):
                return size
        _copy_sparse(source, target, size)
        return size

    def _clone(self, source: int, target: int) -> bool:
        if self._can_clone:
            try:
                fcntl.ioctl(target, _FICLONE, source)
            except OSError as error:
                if error.errno not in _CANNOT:
                    raise
                self._can_clone = False
        return self._can_clone

    def _copy_inside(self, source: int, target: int, size: int) -> bool:
        """Let the kernel copy; say whether it did."""
        done = 0
        while self._can_copy and done < size:
            try:
                count = os.copy_file_range(source, target, size - done, done, done)
            except OSError as error:
                if error.errno not in _CANNOT or done:
                    raise
                self._can_copy = False
            else:
                if not count:
                    break
                done += count
        return self._can_copy


def can_clone(directory: Path) -> bool:
    """Say whether files in a directory can share their blocks."""
    with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
        one, other = (
            stack.enter_context(tempfile.TemporaryFile(dir=directory, buffering=0))
            for _ in range(2)
        )
        one.write(_ZEROS)
        fcntl.ioctl(other.fileno(), _FICLONE, one.fileno())
        return True
    return False


def mend_copy(source: Path, copy: Path, scrap: str) -> None:
    """Make one path a copy of another, at once and for good.

    Args:
        source: A file, link or directory; when it is not there, the copy goes.
        copy: The path.
        scrap: What names in its directory begin with that may be left by a crash.
    """
    fresh, aside = (
        copy.with_name(f"{scrap}{what}.{copy.name}") for what in ("new", "old")
    )
    for path in (fresh, aside):
        _remove(path)
    if os.path.lexists(source):
        _duplicate(source, fresh)
        sync_filesystem(copy.parent)
        is_plain = not (fresh.is_dir() or copy.is_dir()) or copy.is_symlink()
    else:
        is_plain = False
    if os.path.lexists(copy) and not is_plain:
        os.rename(copy, aside)
    if os.path.lexists(fresh):
        os.rename(fresh, copy)
    fsync_directory(copy.parent)
    _remove(aside)


def _duplicate(source: Path, target: Path) -> None:
    if source.is_dir() and not source.is_symlink():
        shutil.copytree(source, target, symlinks=True)
    else:
        shutil.copy2(source, target, follow_symlinks=False)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _copy_sparse(source: int, target: int, size: int) -> None:
    offset = 0
    while data := os.pread(source, CHUNK, offset):
        write_sparse(target, data, offset)
        offset += len(data)
    os.ftruncate(target, size)
