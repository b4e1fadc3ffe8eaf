"""Files that are replaced whole, directories that are synced, locks that are named.

Nothing is ever edited in place. A new file or link is made beside the old one under
a fresh name, synced, renamed over it, and the directory is synced: whatever
instruction the power fails at, a reader finds the old one or the new one, whole.
"""

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from olpc_update_query import errors

_AT_FDCWD = -100  # fcntl.h
_RENAME_EXCHANGE = 2  # linux/fs.h
_PUNCH_HOLE_KEEP_SIZE = 0x02 | 0x01  # linux/falloc.h
_EXT4_KEEPS = 4096  # blocks
_CANNOT_EXCHANGE = (errno.ENOSYS, errno.EINVAL)
_FORBIDDEN = (errno.EACCES, errno.EPERM)
_IN_THE_WAY = (errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ELOOP)


@contextlib.contextmanager
def disk_errors(path: Path, *, needed: int = 1) -> Iterator[None]:
    """Turn what the operating system says into our errors.

    Args:
        path: What is being worked on; named in the error.
        needed: Bytes about to be written, where that is known.

    Raises:
        NoSpace: The file system, its inodes or the quota are used up.
        NotPermitted: The user may not do that.
        InTheWay: Something else is where the path has its place.
        DiskFailed: Any other refusal, such as EIO or EROFS.
    """
    try:
        yield
    except OSError as error:
        raise translated(error, path, needed) from error


def translated(error: OSError, path: Path, needed: int) -> errors.UpdateError:
    """Return our error for one of the operating system's; see ``disk_errors``."""
    if error.errno == errno.EDQUOT:
        used_up = "the user's quota is used up"
        return errors.NoSpace(str(path), needed, free_bytes(path), used_up)
    if error.errno == errno.ENOSPC:
        return no_space(path, needed)
    if error.errno in _FORBIDDEN:
        return errors.NotPermitted(str(path))
    kind = errors.InTheWay if error.errno in _IN_THE_WAY else errors.DiskFailed
    return kind(str(path), error.strerror or str(error))


def refusal(error: OSError) -> errors.UpdateError:
    """Return the error for a call that was refused where nobody expected it.

    Args:
        error: What the operating system said, perhaps with the path.
    """
    name = error.filename if isinstance(error.filename, str) else "a file"
    return translated(error, Path(name), 1)


def no_space(path: Path, needed: int) -> errors.NoSpace:
    """Return the error for a file system that took no more, and what it ran out of.

    Args:
        path: What could not be written.
        needed: Bytes about to be written.
    """
    free, room = free_bytes(path), _room(path)
    # where inodes are made as they are needed, none are counted
    out_of_inodes = room is not None and room.f_files > 0 and not _free_inodes(room)
    used_up = "all its inodes are used" if out_of_inodes and needed <= free else ""
    return errors.NoSpace(str(path), needed, free, used_up)


def free_bytes(path: Path) -> int:
    """Return the bytes this user may still write where ``path`` is or would be.

    Root may use what is reserved for it, but not what ext4 keeps for itself: 2 % of
    the disk, at most 16 MiB of 4 KiB blocks, which ``f_bfree`` counts as free.

    Returns 0 when no directory above the path can be asked.
    """
    room = _room(path)
    if room is None:
        return 0
    blocks = room.f_bavail
    if os.geteuid() == 0:
        blocks = max(blocks, room.f_bfree - min(room.f_blocks // 50, _EXT4_KEEPS))
    return blocks * room.f_frsize


def _free_inodes(room: os.statvfs_result) -> int:
    return room.f_favail if os.geteuid() else room.f_ffree


def _room(path: Path) -> os.statvfs_result | None:
    """Return what is said of the file system where ``path`` is or would be."""
    for place in (path, *path.parents):
        with contextlib.suppress(OSError):
            return os.statvfs(place)
    return None


def fsync_directory(path: Path) -> None:
    """Make the names in a directory survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_filesystem(path: Path) -> None:
    """Write out everything of the file system that holds ``path``.

    Raises:
        OSError: The kernel could not write something.
    """
    import ctypes

    syncfs = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    if syncfs is None:
        os.sync()
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if syncfs(descriptor) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(path))
    finally:
        os.close(descriptor)


def punch_hole(descriptor: int, start: int, end: int) -> None:
    """Give the blocks of a stretch of a file back to the disk.

    Raises:
        OSError: The file system cannot do that, or is failing.
    """
    import ctypes

    library = ctypes.CDLL(None, use_errno=True)
    fallocate = getattr(library, "fallocate64", None) or library.fallocate
    stretch = ctypes.c_int64(start), ctypes.c_int64(end - start)
    if fallocate(descriptor, _PUNCH_HOLE_KEEP_SIZE, *stretch) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def exchange(one: Path, other: Path) -> bool:
    """Let two paths of one file system change places, in one step.

    Returns:
        Whether they did; False where the kernel or the file system cannot.

    Raises:
        OSError: One of them is missing, or may not be renamed.
    """
    import ctypes

    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    names = (_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other))
    if rename(*names, _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in _CANNOT_EXCHANGE:
        return False
    raise OSError(code, os.strerror(code), str(one), None, str(other))


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of ``data``, however many calls that takes."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def replace_file(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Make ``path`` hold exactly ``data``, or leave it as it was.

    Args:
        path: The file; its directory must exist. A link there is replaced itself.
        data: The whole new content.
        mode: Permission bits, whatever the umask says.

    Raises:
        OSError: See ``disk_errors``; nothing is left behind.
    """
    fresh = _fresh_name(path)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(fresh, flags, mode)
    with _removed_on_error(fresh):
        try:
            os.fchmod(descriptor, mode)
            write_all(descriptor, data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.rename(fresh, path)
    fsync_directory(path.parent)


def replace_symlink(path: Path, target: str) -> None:
    """Make ``path`` a symbolic link to ``target``; readers see the old or the new one.

    Never unlinks first. A directory at ``path`` is refused rather than moved into.

    Raises:
        OSError: See ``disk_errors``; nothing is left behind.
    """
    fresh = _fresh_name(path)
    os.symlink(target, fresh)
    with _removed_on_error(fresh):
        os.rename(fresh, path)
    fsync_directory(path.parent)


def _fresh_name(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.urandom(6).hex()}.new")


@contextlib.contextmanager
def _removed_on_error(path: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(path)
        raise


def remove_leftovers(directory: Path) -> None:
    """Remove what a power cut in the middle of ``replace_file`` left there.

    Only for directories whose writers hold a lock: the fresh file of another
    process that is just replacing something would be removed too.
    """
    for name in os.listdir(directory):
        if name.startswith(".") and name.endswith(".new"):
            with contextlib.suppress(OSError):
                os.unlink(directory / name)


def read_bounded(path: Path, limit: int) -> bytes:
    """Read a regular file of at most ``limit`` bytes, not through a link.

    Raises:
        OSError: It cannot be read, or is a link (ELOOP) or no file (EINVAL).
        ValueError: It is larger.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(path, flags)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        data = bytearray()
        while piece := os.read(descriptor, limit + 1 - len(data)):
            data += piece
    finally:
        os.close(descriptor)
    if len(data) > limit:
        raise ValueError(f"{path} is larger than {limit} bytes")
    return bytes(data)


@contextlib.contextmanager
def hold_lock(
    path: Path, purpose: str, *, wait: bool = False, mode: int = 0o600
) -> Iterator[None]:
    """Hold the lock ``path`` while the block runs; the file names the holder.

    The lock ends with the process, however it ends; the file stays and means
    nothing by itself.

    Args:
        path: The lock file; its directory must exist.
        purpose: A few words for whoever finds it held.
        wait: Wait until nobody else holds it.
        mode: Permission bits of a new file; whoever may read it can hold the lock.

    Raises:
        Busy: Another run holds it.
        OSError: See ``disk_errors``.
    """
    descriptor = _open_lock(path, mode)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise errors.Busy(_holder(descriptor)) from None
        with contextlib.suppress(OSError):  # a full disk: the lock holds, unnamed
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"process {os.getpid()} ({purpose})\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _open_lock(path: Path, mode: int) -> int:
    """Open a lock file; one that is lent for reading only can be held all the same."""
    flags = os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(path, flags | os.O_RDWR | os.O_CREAT, mode)
    except OSError as error:
        if error.errno not in {errno.EACCES, errno.EROFS}:
            raise
    with disk_errors(path):
        return os.open(path, flags | os.O_RDONLY)


def _holder(descriptor: int) -> str:
    named = os.pread(descriptor, 200, 0).decode("utf-8", "replace").strip()
    return named or "a process that has not named itself yet"
