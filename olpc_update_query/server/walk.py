"""Reads a tree that is to be published: every path once, in the manifest's order.

The order is that of the path's bytes, and there ``a-b`` comes between ``a`` and
``a/c``. So a directory is an entry at one place and a door to its contents at another,
where its name with a ``/`` behind it sorts.
"""

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from olpc_update_query.errors import UnfitTree
from olpc_update_query.model.entry import Entry, Kind, TreePath, encode_name, parse_path
from olpc_update_query.ports import Progress

_KINDS = {
    stat.S_IFDIR: Kind.DIRECTORY,
    stat.S_IFREG: Kind.FILE,
    stat.S_IFLNK: Kind.SYMLINK,
    stat.S_IFCHR: Kind.CHAR,
    stat.S_IFBLK: Kind.BLOCK,
    stat.S_IFIFO: Kind.FIFO,
}
_KEPT = (b"user.", b"security.capability", b"system.posix_acl_")
_CHUNK = 1 << 20

LARGEST = 64 << 30
"""Bytes of the largest file that a laptop could hold; more is a mistake, or a trap."""

LEFT_OUT = b"lost+found"
"""What belongs to the file system that a tree lies on, not to the tree."""

_CANNOT_LINK = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP)


class Directory:
    """A directory as a tree (``tree.Tree``); it must not change while it is used.

    Sockets are left out, since only a program that runs can make one, and so is what
    is mounted in the tree or belongs to its file system.

    Args:
        root: The directory.
    """

    def __init__(self, root: Path) -> None:
        self._root, self._top = root, os.fsencode(root)
        self._states: dict[TreePath, tuple[int, ...]] = {}
        self._leaders: dict[tuple[int, int], TreePath] = {}

    def entries(self, progress: Progress) -> Iterator[Entry]:
        """Yield the tree's entries in path order, without digests."""
        for path in tree_paths(self._root, progress):
            try:
                entry = self._entry(path)
            except OSError as error:
                raise unfit(path, error) from error
            if entry is not None:
                yield entry
                continue
            progress.step(f"leaving out the socket {encode_name(path)}")

    def _entry(self, path: TreePath) -> Entry | None:
        """Return a path's entry; None: a socket."""
        full = os.path.join(self._top, path)
        facts = os.lstat(full)
        kind = _KINDS.get(stat.S_IFMT(facts.st_mode))
        if kind is None:
            return None
        is_device = kind in {Kind.CHAR, Kind.BLOCK}
        rdev = facts.st_rdev
        return Entry(
            path,
            kind,
            stat.S_IMODE(facts.st_mode),
            facts.st_uid,
            facts.st_gid,
            facts.st_mtime_ns,
            size=facts.st_size if kind is Kind.FILE else 0,
            target=os.readlink(full) if kind is Kind.SYMLINK else b"",
            device=(os.major(rdev), os.minor(rdev)) if is_device else (0, 0),
            leader=self._leader(path, facts) if kind is Kind.FILE else None,
            xattrs=tuple(read_xattrs(full)),
        )

    def _leader(self, path: TreePath, facts: os.stat_result) -> TreePath | None:
        """Return the first name of a file that has several; None: this is it."""
        check_size(path, facts.st_size)
        leader = path
        if facts.st_nlink > 1:
            inode = (facts.st_dev, facts.st_ino)
            leader = self._leaders.setdefault(inode, path)
        if leader != path:
            return leader
        self._states[path] = _state(facts)
        return None

    def read(self, path: TreePath, size: int) -> Iterator[bytes]:
        """Yield the content of one of its files, which is as ``entries`` saw it."""
        try:
            file = open_content(os.path.join(self._top, path))
            try:
                while size and (chunk := os.read(file, min(_CHUNK, size))):
                    size -= len(chunk)
                    yield chunk
                if _state(os.fstat(file)) != self._states[path]:
                    raise changed(path)
            finally:
                os.close(file)
        except OSError as error:
            raise unfit(path, error) from error

    def link(self, path: TreePath, target: bytes) -> bool:
        """Make another path the same file; say whether that could be done."""
        source = os.path.join(self._top, path)
        try:
            os.link(source, target, follow_symlinks=False)
        except FileNotFoundError as error:
            raise unfit(path, error) from error
        except OSError as error:
            if error.errno not in _CANNOT_LINK:
                raise
            return False
        return True


def tree_paths(root: Path, progress: Progress | None = None) -> Iterator[TreePath]:
    """Return every path of a tree, its own directory (empty) first, in path order.

    A directory on which something else is mounted counts as empty.

    Args:
        root: The tree.
        progress: Who is told of what is mounted.

    Raises:
        UnfitTree: A directory cannot be read, or a path is too long.
    """
    yield TreePath(b"")
    lister = _Lister(os.fsencode(root), progress)
    doors = [lister.listing(b"")]
    while doors:
        path = next(doors[-1], None)
        if path is None:
            doors.pop()
        elif path.endswith(b"/"):
            doors.append(lister.listing(path))
        else:
            yield parse_path(path)


class _Lister:
    """Lists the directories of a tree's own file system."""

    def __init__(self, top: bytes, progress: Progress | None) -> None:
        self._top, self._progress = top, progress
        self._device: int | None = None

    def listing(self, inside: bytes) -> Iterator[bytes]:
        """Return what is in a directory, and each directory again with a ``/``."""
        found: list[bytes] = []
        try:
            if not self._is_ours(inside):
                return iter(found)
            with os.scandir(os.path.join(self._top, inside)) as items:
                for item in items:
                    path = inside + item.name
                    found.append(path)
                    if item.is_dir(follow_symlinks=False):
                        found.append(path + b"/")
        except OSError as error:
            raise unfit(inside, error) from error
        return iter(sorted(path for path in found if path.rstrip(b"/") != LEFT_OUT))

    def _is_ours(self, inside: bytes) -> bool:
        device = os.stat(os.path.join(self._top, inside)).st_dev
        self._device = device if self._device is None else self._device
        is_ours = device == self._device
        if not is_ours and self._progress:
            name = encode_name(inside.rstrip(b"/"))
            self._progress.step(f"leaving out what is mounted on {name}")
        return is_ours


def unfit(path: bytes, error: OSError) -> UnfitTree:
    """Say about which path of a tree the operating system complained."""
    return UnfitTree(encode_name(path) or ".", error.strerror or str(error))


def changed(path: bytes) -> UnfitTree:
    """Say that a file is not what it was when the tree was described."""
    return UnfitTree(encode_name(path), "it changed while it was read")


def read_xattrs(full: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Return the extended attributes that belong to a build, sorted by name.

    Others belong to the machine that holds the tree: labels of its security policy,
    marks of its overlays.
    """
    try:
        names = os.listxattr(full, follow_symlinks=False)
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return
        raise
    for name in sorted(map(os.fsencode, names)):
        if belongs(name):
            yield name, os.getxattr(full, name, follow_symlinks=False)


def check_size(path: TreePath, size: int) -> None:
    """Refuse a file that no laptop could hold, before all its holes are read.

    Raises:
        UnfitTree: It is that large.
    """
    if size > LARGEST:
        reason = f"it has {size:,} bytes, more than any laptop could hold"
        raise UnfitTree(encode_name(path), reason)


def belongs(attribute: bytes) -> bool:
    """Tell whether an extended attribute belongs to a build, by its name."""
    return attribute.startswith(_KEPT)


def open_content(full: bytes) -> int:
    """Open a file for reading, but not through a symbolic link."""
    return os.open(full, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)


def _state(facts: os.stat_result) -> tuple[int, ...]:
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns
