"""Reading a whole tree again, to compare it with its manifest.

Every path is looked at by descriptor and every byte is hashed, whatever the tree was
made of: a linked file may have rotted on the disk or been changed through another
tree years ago. Nothing is skipped, and everything that differs is told.
"""

import errno
import os
import stat
from array import array
from collections import deque
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Final

from olpc_update_query.model.manifest import Entry, Kind, ManifestReader, TreePath
from olpc_update_query.perform_update.differences import (
    TYPES,
    Aspect,
    Difference,
    compare_facts,
    compare_special,
    compare_xattrs,
    is_plain_match,
    name_of_type,
)
from olpc_update_query.perform_update.hashing import Hasher
from olpc_update_query.perform_update.walk import Descent

_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_MOST_GROUPS: Final = 10_000  # whose digest is remembered


def audit(contents: Path, tree: Path, *, cold: bool = False) -> Iterator[Difference]:
    """Compare a tree with its manifest, every byte of it.

    Args:
        contents: The manifest.
        tree: The tree.
        cold: Read from the medium, not from the kernel's memory: what is remembered
            of each file is dropped first. (Pages stay that a running program has
            mapped, and those that were never written out: sync before.)

    Yields:
        Everything that differs; nothing when the tree is whole. Paths come in order,
        except that contents, strays and wrongly shared inodes are told later.

    Raises:
        Malformed: The manifest is not one.
        OSError: The disk is failing, or something may not be read.
    """
    auditor = _Auditor(tree, cold=cold)
    try:
        with open(contents, "rb") as stream:
            for number, entry in enumerate(ManifestReader(stream)):
                auditor.check(number, entry)
                while auditor.told:
                    yield auditor.told.popleft()
        auditor.finish()
        yield from auditor.told
        yield from _shared(contents, auditor)
        yield from _strays(contents, tree, auditor.crowded)
    finally:
        auditor.close()


class _Directory:
    """A directory whose children are being counted.

    Attributes:
        found: How many names it has.
        seen: How many of them were those of the manifest.
    """

    __slots__ = ("found", "seen")

    def __init__(self, found: int) -> None:
        self.found, self.seen = found, 0


class _Auditor:
    """Looks at one path after the other.

    Attributes:
        told: What differs and has not been passed on.
        inodes: Inodes of files that must not share theirs, in manifest order.
        numbers: The entries they belong to.
        crowded: Directories with more names than their manifest has.
    """

    def __init__(self, tree: Path, *, cold: bool) -> None:
        self.told: deque[Difference] = deque()
        self.inodes, self.numbers = array("Q"), array("L")
        self.crowded: set[bytes] = set()
        self._tree = Descent(tree)
        self._leaders = Descent(tree, keep=16)
        self._hasher = Hasher(self.told, cold=cold)
        self._groups: dict[TreePath, bytes] = {}
        self._open: dict[bytes, _Directory | None] = {}
        self._parent: bytes | None = None
        self._record: _Directory | None = None
        self._fd = -1

    def close(self) -> None:
        self._hasher.close()
        self._tree.close()
        self._leaders.close()

    def check(self, number: int, entry: Entry) -> None:
        """Look at the next path of the manifest."""
        path = entry.path
        parent, _, name = path.rpartition(b"/")
        if not path:
            self._check_directory(entry)
            return
        if parent != self._parent:
            self._enter(parent, path)
        elif entry.kind is Kind.DIRECTORY:
            self._close_before(path)
        if self._record is None:
            self._tell_missing(entry)
        elif entry.kind is Kind.FILE:
            self._check_file(number, entry, name)
        else:
            self._check_other(entry, name)

    def finish(self) -> None:
        """Count the rest, and wait for every hash."""
        self._close_before(None)
        self._hasher.finish()

    # --- directories --------------------------------------------------------------

    def _enter(self, parent: bytes, path: bytes) -> None:
        self._close_before(path)
        self._parent, self._record = parent, self._open[parent]
        if self._record is not None:
            self._fd = self._tree.enter(parent)

    def _close_before(self, path: bytes | None) -> None:
        """Compare the counts of the directories in which nothing more comes."""
        while self._open:
            latest, record = self._open.popitem()
            if path is not None and (not latest or path < latest + b"0"):
                self._open[latest] = record  # "0" is the byte after "/"
                return
            if record is not None and record.found != record.seen:
                self.crowded.add(latest)

    def _check_directory(self, entry: Entry) -> None:
        """Look at a directory that is one; leaves its descriptor as the latest."""
        fd = self._tree.enter(entry.path)
        self.told.extend(compare_facts(entry, os.fstat(fd)))
        self.told.extend(compare_xattrs(entry, fd))
        self._open[entry.path] = _Directory(len(os.listdir(fd)))
        self._parent = None

    def _check_other(self, entry: Entry, name: bytes) -> None:
        """Look at a directory, a link, a device or a fifo."""
        try:
            facts = os.stat(name, dir_fd=self._fd, follow_symlinks=False)
        except FileNotFoundError:
            self._tell_missing(entry)
            return
        self._count()
        if stat.S_IFMT(facts.st_mode) != TYPES[entry.kind]:
            self._tell_kind(entry, facts)
        elif entry.kind is Kind.DIRECTORY:
            self._check_directory(entry)
        else:
            self.told.extend(compare_facts(entry, facts))
            self.told.extend(compare_special(entry, facts, name, self._fd))

    # --- files --------------------------------------------------------------------

    def _check_file(self, number: int, entry: Entry, name: bytes) -> None:
        fd = self._open_file(entry, name)
        if fd is None:
            return
        facts = os.fstat(fd)
        if not is_plain_match(entry, facts):
            self.told.extend(compare_facts(entry, facts))
        self.told.extend(compare_xattrs(entry, fd))
        if entry.leader is None:
            self.inodes.append(facts.st_ino)
            self.numbers.append(number)
        elif self._is_known_member(entry, entry.leader, facts):
            os.close(fd)
            return
        self._hasher.take(fd, entry, facts.st_size)

    def _open_file(self, entry: Entry, name: bytes) -> int | None:
        """Open what should be a file; tell what is there when it is none."""
        try:
            fd = os.open(name, _FLAGS, dir_fd=self._fd)
        except FileNotFoundError:
            self._tell_missing(entry)
            return None
        except OSError as error:
            if error.errno not in {errno.ELOOP, errno.ENXIO, errno.ENODEV}:
                raise
            self._check_other(entry, name)  # a link or a socket, not a file
            return None
        self._count()
        facts = os.fstat(fd)
        if stat.S_ISREG(facts.st_mode):
            return fd
        os.close(fd)
        self._tell_kind(entry, facts)
        return None

    def _is_known_member(
        self, entry: Entry, leader: TreePath, facts: os.stat_result
    ) -> bool:
        """Check that a file is its leader's link; say whether its bytes are hashed."""
        self._check_member(entry, leader, facts)
        if self._groups.get(leader) == entry.digest:
            return True
        if len(self._groups) < _MOST_GROUPS:
            self._groups[leader] = entry.digest
        return False

    def _check_member(
        self, entry: Entry, leader: TreePath, facts: os.stat_result
    ) -> None:
        parent, _, name = leader.rpartition(b"/")
        try:
            first = os.stat(
                name, dir_fd=self._leaders.enter(parent), follow_symlinks=False
            )
        except OSError:
            inode = 0
        else:
            inode = first.st_ino
        if inode != facts.st_ino:
            self._tell(entry, Aspect.GROUP, "a link of its leader", "another file")

    # --- telling ------------------------------------------------------------------

    def _count(self) -> None:
        if self._record is not None:
            self._record.seen += 1

    def _tell(self, entry: Entry, aspect: Aspect, expected: str, found: str) -> None:
        self.told.append(Difference(entry.path, aspect, expected, found, entry.digest))

    def _tell_missing(self, entry: Entry) -> None:
        expected = name_of_type(TYPES[entry.kind])
        self._tell(entry, Aspect.MISSING, expected, "nothing")
        self._shut(entry)

    def _tell_kind(self, entry: Entry, facts: os.stat_result) -> None:
        expected, found = TYPES[entry.kind], stat.S_IFMT(facts.st_mode)
        self._tell(entry, Aspect.KIND, name_of_type(expected), name_of_type(found))
        self._shut(entry)

    def _shut(self, entry: Entry) -> None:
        """Note a directory that cannot be looked into."""
        if entry.kind is Kind.DIRECTORY:
            self._open[entry.path] = None


def _shared(contents: Path, auditor: _Auditor) -> Iterator[Difference]:
    """Tell the files that share an inode with a file they should not share it with."""
    twice = {one for one, other in pairwise(sorted(auditor.inodes)) if one == other}
    if not twice:
        return
    pairs = zip(auditor.numbers, auditor.inodes, strict=True)
    inode_of = {number: inode for number, inode in pairs if inode in twice}
    seen: set[int] = set()
    with open(contents, "rb") as stream:
        for number, entry in enumerate(ManifestReader(stream)):
            inode = inode_of.get(number)
            if inode in seen:
                found = "a link of an earlier one"
                yield Difference(
                    entry.path, Aspect.GROUP, "a file of its own", found, entry.digest
                )
            elif inode is not None:
                seen.add(inode)


def _strays(contents: Path, tree: Path, crowded: set[bytes]) -> Iterator[Difference]:
    """Tell the names that are in a directory and not in the manifest."""
    if not crowded:
        return
    named: dict[bytes, set[bytes]] = {path: set() for path in crowded}
    with open(contents, "rb") as stream:
        for entry in ManifestReader(stream):
            parent, _, name = entry.path.rpartition(b"/")
            if entry.path and parent in named:
                named[parent].add(name)
    with Descent(tree) as descent:
        for directory, names in sorted(named.items()):
            fd = descent.enter(directory)
            for name in sorted({os.fsencode(n) for n in os.listdir(fd)} - names):
                facts = os.stat(name, dir_fd=fd, follow_symlinks=False)
                path = TreePath(directory + b"/" + name if directory else name)
                found = name_of_type(stat.S_IFMT(facts.st_mode))
                yield Difference(path, Aspect.STRAY, "nothing", found)
