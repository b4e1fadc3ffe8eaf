"""Giving what was just made its owner, attributes, mode and time, in that order.

A change of owner drops set-user-id bits and capabilities, attributes want a file that
may be written, a new name in a directory sets its time: so the time comes last. Only
new inodes are ever dressed: what is linked shares all of this with another tree.
"""

import contextlib
import os
import stat
from collections.abc import Iterator

from olpc_update_query.errors import DiskFailed, NotPermitted
from olpc_update_query.model.manifest import Entry, Kind, encode_name

_TYPES = {
    Kind.CHAR: stat.S_IFCHR,
    Kind.BLOCK: stat.S_IFBLK,
    Kind.FIFO: stat.S_IFIFO,
}


def dress(descriptor: int, entry: Entry) -> None:
    """Give an open file or directory the metadata of its entry.

    Raises:
        NotPermitted: Only root may do that.
        DiskFailed: A number of it is beyond what this system can hold.
    """
    with _permitted(entry):
        os.fchown(descriptor, entry.uid, entry.gid)
        for name, value in entry.xattrs:
            os.setxattr(descriptor, name, value)
        os.fchmod(descriptor, entry.mode)
        os.utime(descriptor, ns=(entry.mtime_ns, entry.mtime_ns))


def make_special(entry: Entry, name: bytes, directory: int) -> None:
    """Make a symbolic link, a device or a fifo.

    Args:
        entry: What to make.
        name: Its name.
        directory: A descriptor of its directory, where nobody else can interfere.

    Raises:
        NotPermitted: Only root may do that.
        DiskFailed: A number of it is beyond what this system can hold.
    """
    with _permitted(entry):
        if entry.kind is Kind.SYMLINK:
            os.symlink(entry.target, name, dir_fd=directory)
        else:
            mode = _TYPES[entry.kind] | 0o600
            os.mknod(name, mode, os.makedev(*entry.device), dir_fd=directory)
        os.chown(name, entry.uid, entry.gid, dir_fd=directory, follow_symlinks=False)
        if entry.kind is not Kind.SYMLINK:  # which has no mode of its own
            os.chmod(name, entry.mode, dir_fd=directory)
        for attribute, value in entry.xattrs:
            path = f"/proc/self/fd/{directory}/".encode() + name
            os.setxattr(path, attribute, value, follow_symlinks=False)
        times = (entry.mtime_ns, entry.mtime_ns)
        os.utime(name, ns=times, dir_fd=directory, follow_symlinks=False)


@contextlib.contextmanager
def _permitted(entry: Entry) -> Iterator[None]:
    try:
        yield
    except PermissionError as refused:
        what = f"{encode_name(entry.path)} as user {entry.uid}, group {entry.gid}"
        raise NotPermitted(what) from refused
    except OverflowError as beyond:  # a system of 32 bits ends in 2038
        reason = "its time or owner is a number that this system cannot hold"
        raise DiskFailed(encode_name(entry.path), reason) from beyond
