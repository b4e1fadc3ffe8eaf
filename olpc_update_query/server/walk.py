"""Reads a tree that is to be published: every path once, in the manifest's order.

The order is that of the path's bytes, and there ``a-b`` comes between ``a`` and
``a/c``. So a directory is an entry at one place and a door to its contents at another,
where its name with a ``/`` behind it sorts.
"""

import errno
import hashlib
import os
import stat
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from io import FileIO
from pathlib import Path

from olpc_update_query.errors import UnfitTree
from olpc_update_query.model.entry import Entry, Kind, TreePath, encode_name, parse_path
from olpc_update_query.ports import Progress

_THREADS = 2
_AHEAD = 256
_INLINE = 64 << 10  # hashing less than this costs less than handing it over
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

_Digest = bytes | Future[bytes]


class Directory:
    """A directory as a tree (``tree.Tree``); it must not change while it is used.

    Args:
        root: The directory.
    """

    def __init__(self, root: Path) -> None:
        self._root, self._top = root, os.fsencode(root)

    def entries(self, mtime_ns: int | None, progress: Progress) -> Iterator[Entry]:
        """Yield the tree's entries, see `walk_tree`."""
        return walk_tree(self._root, mtime_ns=mtime_ns, progress=progress)

    def read(self, path: TreePath, size: int) -> Iterator[bytes]:
        """Yield the content of one of its files."""
        try:
            with open_content(os.path.join(self._top, path)) as file:
                while size and (chunk := file.read(min(_CHUNK, size))):
                    size -= len(chunk)
                    yield chunk
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


def walk_tree(
    root: Path, *, mtime_ns: int | None = None, progress: Progress | None = None
) -> Iterator[Entry]:
    """Read a tree, hashing every inode once.

    Sockets are left out, since only a program that runs can make one, and so is what
    is mounted in the tree or belongs to its file system.

    Args:
        root: The tree.
        mtime_ns: The one time to give every path; None keeps each its own.
        progress: Who is told about what is left out.

    Yields:
        The entries of the tree, its own directory first, in path order.

    Raises:
        UnfitTree: Something cannot be read, has too long a name, or changes meanwhile.
    """
    waiting: deque[tuple[Entry, _Digest]] = deque()
    with ThreadPoolExecutor(_THREADS) as pool:
        reader = _Reader(os.fsencode(root), mtime_ns, pool)
        for path in tree_paths(root, progress):
            found = reader.read(path)
            if found is None:
                if progress:
                    progress.step(f"leaving out the socket {encode_name(path)}")
                continue
            waiting.append(found)
            if len(waiting) > _AHEAD:
                yield _finished(*waiting.popleft())
        while waiting:
            yield _finished(*waiting.popleft())


def _finished(entry: Entry, digest: _Digest) -> Entry:
    if entry.kind is not Kind.FILE:
        return entry
    return entry._replace(
        digest=digest if isinstance(digest, bytes) else digest.result()
    )


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


class _Reader:
    """Makes entries, remembering the inodes with several names."""

    def __init__(self, top: bytes, mtime_ns: int | None, pool: ThreadPoolExecutor):
        self._top, self._mtime_ns, self._pool = top, mtime_ns, pool
        self._leaders: dict[tuple[int, int], tuple[TreePath, _Digest]] = {}

    def read(self, path: TreePath) -> tuple[Entry, _Digest] | None:
        """Return a path's entry, and its digest when that is known; None: a socket."""
        full = os.path.join(self._top, path)
        try:
            facts = os.lstat(full)
            kind = _KINDS.get(stat.S_IFMT(facts.st_mode))
            if kind is None:
                return None
            entry = self._entry(path, full, kind, facts)
            if kind is Kind.FILE:
                return self._file(entry, full, facts)
        except OSError as error:
            raise unfit(path, error) from error
        return entry, b""

    def _entry(
        self, path: TreePath, full: bytes, kind: Kind, facts: os.stat_result
    ) -> Entry:
        is_device = kind in {Kind.CHAR, Kind.BLOCK}
        rdev = facts.st_rdev
        return Entry(
            path,
            kind,
            stat.S_IMODE(facts.st_mode),
            facts.st_uid,
            facts.st_gid,
            facts.st_mtime_ns if self._mtime_ns is None else self._mtime_ns,
            size=facts.st_size if kind is Kind.FILE else 0,
            target=os.readlink(full) if kind is Kind.SYMLINK else b"",
            device=(os.major(rdev), os.minor(rdev)) if is_device else (0, 0),
            xattrs=tuple(read_xattrs(full)),
        )

    def _file(
        self, entry: Entry, full: bytes, facts: os.stat_result
    ) -> tuple[Entry, _Digest]:
        check_size(entry.path, facts.st_size)
        inode = (facts.st_dev, facts.st_ino)
        known = self._leaders.get(inode) if facts.st_nlink > 1 else None
        if known is not None:
            leader, digest = known
            return entry._replace(leader=leader), digest
        if facts.st_size < _INLINE:
            digest = _hash(entry.path, full, facts)
        else:
            digest = self._pool.submit(_hash, entry.path, full, facts)
        if facts.st_nlink > 1:
            self._leaders[inode] = (entry.path, digest)
        return entry, digest


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


def open_content(full: bytes) -> FileIO:
    """Open a file for reading, but not through a symbolic link."""
    return FileIO(full, opener=_open_no_follow)


def _open_no_follow(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC)


def _hash(path: TreePath, full: bytes, seen: os.stat_result) -> bytes:
    """Hash a file that must not change before, while or after it is read."""
    try:
        with open_content(full) as file:
            before = os.fstat(file.fileno())
            digest = _digest_of(file, before.st_size)
            after = os.fstat(file.fileno())
    except OSError as error:
        raise unfit(path, error) from error
    if not _state(seen) == _state(before) == _state(after):
        raise UnfitTree(encode_name(path), "it changed while it was read")
    return digest


def _digest_of(file: FileIO, size: int) -> bytes:
    if size < _INLINE:  # most files, and hashlib makes a buffer of 256 KiB for each
        return hashlib.sha256(file.readall()).digest()
    return hashlib.file_digest(file, "sha256").digest()


def _state(facts: os.stat_result) -> tuple[int, ...]:
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns
