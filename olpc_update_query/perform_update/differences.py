"""How what is on the disk differs from what a manifest says of it."""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from enum import StrEnum
from typing import Final, NamedTuple

from olpc_update_query.model.manifest import (
    Entry,
    Kind,
    TreePath,
    encode_name,
    same_time,
)

TYPES: Final = {
    Kind.DIRECTORY: stat.S_IFDIR,
    Kind.FILE: stat.S_IFREG,
    Kind.SYMLINK: stat.S_IFLNK,
    Kind.CHAR: stat.S_IFCHR,
    Kind.BLOCK: stat.S_IFBLK,
    Kind.FIFO: stat.S_IFIFO,
}
_NAMES: Final = {
    stat.S_IFDIR: "a directory",
    stat.S_IFREG: "a file",
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
    stat.S_IFIFO: "a fifo",
    stat.S_IFSOCK: "a socket",
}
_RECORDED: Final = (b"user.", b"security.capability", b"system.posix_acl_")


class Aspect(StrEnum):
    """What of a path differs."""

    MISSING = "missing"
    STRAY = "stray"
    KIND = "kind"
    MODE = "mode"
    OWNER = "owner"
    TIME = "time"
    SIZE = "size"
    CONTENT = "content"
    TARGET = "target"
    DEVICE = "device"
    GROUP = "hard links"
    XATTRS = "attributes"


class Difference(NamedTuple):
    """One way in which a tree is not what its manifest says.

    Attributes:
        path: The path, relative to the tree.
        aspect: What of it differs.
        expected: What it should be, for people.
        found: What it is.
        digest: For a file of the manifest, its content's digest.
    """

    path: TreePath
    aspect: Aspect
    expected: str
    found: str
    digest: bytes = b""

    def __str__(self) -> str:
        name = encode_name(self.path) or "the tree's own directory"
        return f"{name}: {self.aspect}: expected {self.expected}, found {self.found}"


def name_of_type(kind: int) -> str:
    """Return what people call a file type (`stat.S_IFMT`)."""
    return _NAMES.get(kind, f"type {kind:o}")


def is_plain_match(entry: Entry, facts: os.stat_result) -> bool:
    """Say quickly that a file is all it should be; False says nothing yet."""
    return (
        facts.st_mode == stat.S_IFREG | entry.mode
        and facts.st_mtime_ns == entry.mtime_ns
        and facts.st_size == entry.size
        and facts.st_uid == entry.uid
        and facts.st_gid == entry.gid
    )


def compare_facts(entry: Entry, facts: os.stat_result) -> Iterator[Difference]:
    """Yield how mode, owner, time and size differ."""
    if entry.kind is not Kind.SYMLINK:
        mode = stat.S_IMODE(facts.st_mode)
        if mode != entry.mode:
            yield _difference(entry, Aspect.MODE, f"{entry.mode:04o}", f"{mode:04o}")
    if (facts.st_uid, facts.st_gid) != (entry.uid, entry.gid):
        found = f"{facts.st_uid}:{facts.st_gid}"
        yield _difference(entry, Aspect.OWNER, f"{entry.uid}:{entry.gid}", found)
    if not same_time(entry.mtime_ns, facts.st_mtime_ns):
        wanted, found = f"{entry.mtime_ns} ns", f"{facts.st_mtime_ns} ns"
        yield _difference(entry, Aspect.TIME, wanted, found)
    if entry.kind is Kind.FILE and facts.st_size != entry.size:
        wanted, found = f"{entry.size} bytes", f"{facts.st_size} bytes"
        yield _difference(entry, Aspect.SIZE, wanted, found)


def compare_special(
    entry: Entry, facts: os.stat_result, name: bytes, directory: int
) -> Iterator[Difference]:
    """Yield how a link's target, a device's numbers and the attributes differ."""
    if entry.kind is Kind.SYMLINK:
        target = os.readlink(name, dir_fd=directory)
        if target != entry.target:
            wanted, found = encode_name(entry.target), encode_name(target)
            yield _difference(entry, Aspect.TARGET, wanted, found)
    elif entry.kind in {Kind.CHAR, Kind.BLOCK}:
        numbers = (os.major(facts.st_rdev), os.minor(facts.st_rdev))
        if numbers != entry.device:
            wanted, found = (f"{a}:{b}" for a, b in (entry.device, numbers))
            yield _difference(entry, Aspect.DEVICE, wanted, found)
    path = f"/proc/self/fd/{directory}/".encode() + name
    yield from compare_xattrs(entry, path)


def compare_xattrs(entry: Entry, where: int | bytes) -> Iterator[Difference]:
    """Yield how extended attributes differ.

    Labels that a kernel gives by itself are in no manifest and do not count.

    Args:
        entry: What they should be.
        where: A descriptor, or a path whose last step may be a link.
    """
    names = _names(where)
    if not names and not entry.xattrs:
        return
    wanted = dict(entry.xattrs)
    found = {
        name: _value(where, name)
        for name in map(os.fsencode, names)
        if name in wanted or name.startswith(_RECORDED)
    }
    if found != wanted:
        yield _difference(entry, Aspect.XATTRS, _listed(wanted), _listed(found))


def read_xattrs(where: int | bytes) -> tuple[tuple[bytes, bytes], ...]:
    """Return the extended attributes that belong to a build, sorted by name."""
    names = sorted(map(os.fsencode, _names(where)))
    recorded = (name for name in names if name.startswith(_RECORDED))
    return tuple((name, _value(where, name)) for name in recorded)


def _names(where: int | bytes) -> list[str]:
    try:
        if isinstance(where, int):
            return os.listxattr(where)
        return os.listxattr(where, follow_symlinks=False)
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise
        return []


def _value(where: int | bytes, name: bytes) -> bytes:
    with contextlib.suppress(OSError):
        if isinstance(where, int):
            return os.getxattr(where, name)
        return os.getxattr(where, name, follow_symlinks=False)
    return b"?"


def _listed(attributes: dict[bytes, bytes]) -> str:
    pairs = (f"{encode_name(n)}={v.hex()}" for n, v in sorted(attributes.items()))
    return " ".join(pairs) or "none"


def _difference(entry: Entry, aspect: Aspect, expected: str, found: str) -> Difference:
    return Difference(entry.path, aspect, expected, found, entry.digest)
