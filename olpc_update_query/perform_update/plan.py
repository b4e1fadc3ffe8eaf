"""What a build needs that the laptop does not have, and where the rest lies.

The new manifest and those of the installed builds are read side by side, once. A
file whose path, content and metadata are those of an installed build can be linked,
and that is one byte per path to remember. What is left is little in practice: it
goes to a scratch database, is looked up by digest in everything installed, and what
is found nowhere is missing.
"""

import contextlib
import itertools
import sqlite3
from array import array
from bisect import bisect_left
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from olpc_update_query.model.manifest import (
    Entry,
    Kind,
    ManifestReader,
    TreePath,
    parse_entry,
)
from olpc_update_query.perform_update.activate import InstalledTree
from olpc_update_query.perform_update.catalog import (
    MOST_TREES,
    Candidate,
    Catalog,
    database_errors,
)
from olpc_update_query.perform_update.filesystems import FileSystem, file_system
from olpc_update_query.system.closing import Closing
from olpc_update_query.system.files import disk_errors

BLOCK = 4096
_BATCH = 4096
_NOTHING = 255  # a directory, a link, another name of a file: needs no content
_CONTENT = 254  # a file to be made from its content
_MOVED = 253  # a file to be linked from another path
# below: the number of the tree that has it, just so, at the same path

_SCHEMA = """
    PRAGMA journal_mode = OFF;
    PRAGMA synchronous = OFF;
    PRAGMA locking_mode = EXCLUSIVE;
    PRAGMA temp_store = MEMORY;
    PRAGMA cache_size = -4096;
    CREATE TABLE needed (number INTEGER PRIMARY KEY, place INTEGER);
    CREATE TABLE moved (number INTEGER PRIMARY KEY, tree INTEGER, path BLOB);
    CREATE TABLE missing (number INTEGER PRIMARY KEY, digest BLOB UNIQUE, size INTEGER);
"""


class Origin(NamedTuple):
    """A file of an installed tree that a new path can be a link of.

    Attributes:
        tree: Number of the tree, as in ``Plan.installed``.
        path: Its path there.
    """

    tree: int
    path: TreePath


class Doubts(NamedTuple):
    """Contents of which the installed copies are not to be used, or not as they are.

    Attributes:
        distrust: Digests of contents whose installed copies are damaged.
        apart: Digests of contents whose installed copies may be copied, not linked.
    """

    distrust: frozenset[bytes]
    apart: frozenset[bytes]


class Totals:
    """What the new tree consists of.

    Args:
        disk: What things cost where it will be.

    Attributes:
        directories: Their number.
        links: Number of symbolic links, devices and fifos.
        files: Number of files that will be written: new inodes.
        linked: Number of paths that can be links of installed files.
        new_bytes: Bytes of the files that will be written.
        new_space: What these take from the disk.
        missing_bytes: Bytes of the contents that no installed tree has.
        boot_bytes: Bytes below ``boot/``, in whole blocks.
        names_space: What directories, names and symbolic links take from the disk.
    """

    def __init__(self, disk: FileSystem) -> None:
        self.disk = disk
        self.directories = self.links = self.files = self.linked = 0
        self.new_bytes = self.new_space = self.missing_bytes = self.boot_bytes = 0
        self.names_space = 0
        self._parent: bytes | None = None
        self._open: dict[bytes, list[int]] = {}
        self._counts = [0, 0]

    def add(self, entry: Entry) -> None:
        """Count a path; paths come in order."""
        parent, _, name = entry.path.rpartition(b"/")
        if entry.path:
            if parent != self._parent:
                self._close_before(entry.path)
                self._parent, self._counts = parent, self._open.get(parent, [0, 0])
            self._counts[0] += 1
            self._counts[1] += len(name)
        if entry.kind is Kind.FILE:
            if entry.path.startswith(b"boot/"):
                self.boot_bytes += in_blocks(entry.size)
        elif entry.kind is Kind.DIRECTORY:
            self.directories += 1
            self._close_before(entry.path)
            self._open[entry.path] = [0, 0]
        else:
            self.links += 1
            self.names_space += self.disk.link(len(entry.target))

    def finish(self) -> None:
        """Count the directories that are still open."""
        self._close_before(None)

    def _close_before(self, path: bytes | None) -> None:
        """Count the directories in which nothing more comes."""
        while self._open:
            latest, counts = self._open.popitem()
            if path is not None and (not latest or path < latest + b"0"):
                self._open[latest] = counts  # "0" is the byte after "/"
                return
            self.names_space += self.disk.directory(*counts)

    def add_written(self, size: int, *, is_copy: bool) -> None:
        """Count a file that will be written, perhaps from an installed one."""
        self.files += 1
        self.new_bytes += size
        self.new_space += self.disk.copy(size) if is_copy else self.disk.file(size)


def in_blocks(size: int) -> int:
    """Return the bytes that a file of ``size`` bytes takes on most disks."""
    return -(-size // BLOCK) * BLOCK


def make_plan(
    contents: Path,
    installed: Sequence[InstalledTree],
    scratch: Path,
    *,
    distrust: Collection[bytes] = (),
    apart: Collection[bytes] = (),
) -> "Plan":
    """Compare a build with what is installed.

    Args:
        contents: The build's manifest, verified.
        installed: The trees to take files from, the best first.
        scratch: Where to keep the plan; replaced, and removed when it is closed.
        distrust: Digests of contents whose installed copies are damaged.
        apart: Digests of contents whose installed copies may be copied, not linked.

    Returns:
        The plan, to be closed.

    Raises:
        Malformed: The manifest is not one.
        UnsafePath: A path of it tries to leave the tree.
        TreeError: The disk is full or failing.
    """
    with disk_errors(scratch), database_errors(scratch):
        doubts = Doubts(frozenset(distrust), frozenset(apart))
        plan = Plan(contents, installed[:MOST_TREES], scratch, doubts)
        try:
            plan.compare()
        except BaseException:
            plan.close()
            raise
        return plan


class Plan(Closing):
    """Where each path of a new build comes from; made by `make_plan`.

    Attributes:
        installed: The trees that files may come from.
        totals: What the new tree consists of.
        header: The new manifest's header.
    """

    def __init__(
        self,
        contents: Path,
        installed: Sequence[InstalledTree],
        scratch: Path,
        doubts: "Doubts",
    ) -> None:
        self.installed = tuple(installed)
        self.totals = Totals(file_system(scratch.parent))
        self._apart = doubts.apart
        self._contents, self._scratch = contents, scratch
        self._choices = bytearray()
        self._exits = contextlib.ExitStack()
        self._new = self._exits.enter_context(contents.open("rb"))
        self.header = ManifestReader(self._new).header
        scratch.unlink(missing_ok=True)
        self._db = sqlite3.connect(scratch, isolation_level=None)
        self._exits.callback(scratch.unlink, missing_ok=True)
        self._exits.callback(self._db.close)
        self._db.executescript(_SCHEMA)
        self._catalog = Catalog(self._db, installed, doubts.distrust)
        self._exits.callback(self._catalog.close)

    def close(self) -> None:
        """Remove the scratch file."""
        self._exits.close()

    # --- what was found out -----------------------------------------------------

    @property
    def missing_bytes(self) -> int:
        """Bytes of the contents that no installed tree has, each counted once."""
        return self.totals.missing_bytes

    @property
    def new_bytes(self) -> int:
        """Bytes of the files that have to be written."""
        return self.totals.new_bytes

    @property
    def linked(self) -> int:
        """Number of paths that can be links of installed files."""
        return self.totals.linked

    def missing(self) -> Iterator[tuple[bytes, int]]:
        """Yield digest and size of what no installed tree has, in manifest order."""
        with database_errors(self._scratch):
            query = "SELECT digest, size FROM missing ORDER BY number"
            yield from self._db.execute(query)

    def missing_size(self, digest: bytes) -> int | None:
        """Return the size of a content that is missing; None if it is not."""
        with database_errors(self._scratch):
            query = "SELECT size FROM missing WHERE digest = ?"
            row = self._db.execute(query, (digest,)).fetchone()
        return None if row is None else int(row[0])

    def locate(self, digest: bytes) -> tuple[InstalledTree, TreePath] | None:
        """Return an installed file that has a content, whatever its metadata."""
        with database_errors(self._scratch):
            for found in self._catalog.find(digest):
                return self.installed[found.tree], found.entry.path
        return None

    def steps(self) -> Iterator[tuple[Entry, Origin | None]]:
        """Yield every entry in path order, with the installed file it can be linked to.

        Raises:
            Malformed: The manifest is not the one that was planned for.
        """
        with open(self._contents, "rb") as stream:
            entries = enumerate(ManifestReader(stream))
            for (number, entry), choice in zip(entries, self._choices, strict=True):
                if choice < _MOVED:
                    yield entry, Origin(choice, entry.path)
                elif choice == _MOVED:
                    yield entry, self._moved(number)
                else:
                    yield entry, None

    def _moved(self, number: int) -> Origin:
        with database_errors(self._scratch):
            query = "SELECT tree, path FROM moved WHERE number = ?"
            tree, path = self._db.execute(query, (number,)).fetchone()
        return Origin(tree, TreePath(path))

    # --- finding out --------------------------------------------------------------

    def compare(self) -> None:
        """Read the manifests side by side, then look for what is left."""
        self._db.execute("BEGIN")
        linked = self._merge()
        self._catalog.finish()
        self._look_up(self._untie(*linked))
        self.totals.linked = sum(choice <= _MOVED for choice in self._choices)
        self._db.execute("COMMIT")

    def _merge(self) -> tuple["array[int]", "array[int]"]:
        """Choose for each path; return inode and number of every file to be linked."""
        self._new.seek(0)
        reader = ManifestReader(self._new)
        if peer := self._catalog.reader():
            reader.share_parsing(peer)
        needed: list[tuple[int, int]] = []
        inodes, numbers = array("Q"), array("L")
        place = self._new.tell()
        for number, entry in enumerate(reader):
            olds = self._catalog.match(entry.path)
            self.totals.add(entry)
            self._choices.append(_NOTHING)
            if entry.kind is Kind.FILE and entry.leader is None:
                if found := self._same(entry, olds):
                    self._choices[number] = found.tree
                    inodes.append(found.facts.st_ino)
                    numbers.append(number)
                else:
                    needed.append((number, place))
                    if len(needed) >= _BATCH:
                        self._need(needed)
            place += len(reader.latest[0]) if reader.latest else 0
        self._need(needed)
        self.totals.finish()
        return inodes, numbers

    def _need(self, rows: list[tuple[int, int]]) -> None:
        """Note files that cannot be linked from their own path, and clear the list."""
        self._db.executemany("INSERT INTO needed VALUES (?, ?)", rows)
        rows.clear()

    def _same(self, entry: Entry, olds: list[tuple[int, Entry]]) -> Candidate | None:
        """Return the installed file of the same path that needs no change at all."""
        if entry.digest in self._apart:
            return None
        for tree, old in olds:
            if old is entry or _is_alike(old, entry):
                found = self._catalog.look(tree, old)
                if found and found.is_dressed(entry):
                    return found
        return None

    def _untie(self, inodes: "array[int]", numbers: "array[int]") -> "array[int]":
        """Let no two files be links of one inode; return the inodes in use, sorted.

        Files may be linked in an installed tree, or through two of them, and be
        separate in the new one. The first one in path order keeps the inode.
        """
        used = array("Q", sorted(inodes))
        twice = {one for one, other in itertools.pairwise(used) if one == other}
        if twice:
            surplus: set[int] = set()
            kept: set[int] = set()
            for inode, number in zip(inodes, numbers, strict=True):
                if inode in kept:
                    surplus.add(number)
                elif inode in twice:
                    kept.add(inode)
            self._need([row for row in self._places() if row[0] in surplus])
        return used

    def _places(self) -> Iterator[tuple[int, int]]:
        """Yield number and place of every entry's line."""
        self._new.seek(0)
        place = len(self._new.readline())
        for number, line in enumerate(self._new):
            yield number, place
            place += len(line)

    def _look_up(self, used: "array[int]") -> None:
        """Look for the files that are not to be linked from their own path."""
        moved: set[int] = set()
        query = "SELECT number, place FROM needed ORDER BY number"
        for number, place in self._db.execute(query):
            self._new.seek(place)
            entry = parse_entry(self._new.readline())
            found = list(self._catalog.find(entry.digest))
            for candidate in found:
                inode = candidate.facts.st_ino
                if (
                    inode not in moved
                    and entry.digest not in self._apart
                    and _is_alike(candidate.entry, entry)
                    and candidate.is_dressed(entry)
                    and not _holds(used, inode)
                ):
                    moved.add(inode)
                    self._note_moved(number, candidate)
                    break
            else:
                self._note_written(number, entry, is_there=bool(found))

    def _note_moved(self, number: int, found: Candidate) -> None:
        self._choices[number] = _MOVED
        row = (number, found.tree, found.entry.path)
        self._db.execute("INSERT INTO moved VALUES (?, ?, ?)", row)

    def _note_written(self, number: int, entry: Entry, *, is_there: bool) -> None:
        self._choices[number] = _CONTENT
        self.totals.add_written(entry.size, is_copy=is_there)
        if is_there or not entry.size:
            return
        row = (number, entry.digest, entry.size)
        added = self._db.execute("INSERT OR IGNORE INTO missing VALUES (?, ?, ?)", row)
        if added.rowcount:
            self.totals.missing_bytes += entry.size


def _is_alike(old: Entry, new: Entry) -> bool:
    """Say whether two files have one content and the same metadata, but for time.

    The time that counts is that on the disk.
    """
    return (
        old.digest == new.digest
        and old[2:5] == new[2:5]
        and old.size == new.size
        and old.xattrs == new.xattrs
        and old.kind is new.kind
    )


def _holds(ordered: "array[int]", number: int) -> bool:
    at = bisect_left(ordered, number)
    return at < len(ordered) and ordered[at] == number
