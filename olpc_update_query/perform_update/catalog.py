"""What the installed builds have, by path and by digest.

Their manifests are read in step with a new one. On the way every file is noted by
the first bytes of its digest and the place of its line, so that any content can be
found again later, for one short row a file.

Nothing is believed unseen: a file counts only while it still has the kind, size and
time that its manifest says. (Its bytes are checked when the finished tree is
audited; ``distrust`` then names what turned out to be damaged.)
"""

import contextlib
import itertools
import logging
import os
import sqlite3
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

from olpc_update_query.errors import DiskFailed, UpdateError
from olpc_update_query.model.manifest import (
    Entry,
    Kind,
    ManifestReader,
    parse_entry,
    same_time,
)
from olpc_update_query.perform_update.activate import InstalledTree
from olpc_update_query.system.files import no_space

_log = logging.getLogger(__name__)

MOST_TREES = 8  # each keeps descriptors open while a tree is made
_OFFSET_BITS = 40
_BATCH = 4096
_MOST_CANDIDATES = 16  # a licence may lie in hundreds of directories


class Candidate(NamedTuple):
    """An installed file that is still what its manifest says.

    Attributes:
        tree: Number of its tree, from 0.
        entry: Its entry there.
        facts: What the disk says.
    """

    tree: int
    entry: Entry
    facts: os.stat_result

    def is_dressed(self, entry: Entry) -> bool:
        """Say whether it has mode, owner and time of an entry."""
        facts = self.facts
        return (
            stat.S_IMODE(facts.st_mode) == entry.mode
            and facts.st_uid == entry.uid
            and facts.st_gid == entry.gid
            and same_time(entry.mtime_ns, facts.st_mtime_ns)
        )


class Catalog:
    """The files of the installed builds.

    Args:
        database: Where to note them; a table ``installed`` is made in it.
        installed: The trees, the best first. One whose manifest is of another format
            or damaged is of no use from there on, which is no error.
        distrust: Digests of contents whose installed copies are damaged.
    """

    def __init__(
        self,
        database: sqlite3.Connection,
        installed: Sequence[InstalledTree],
        distrust: frozenset[bytes],
    ) -> None:
        self._db, self._distrust = database, distrust
        database.execute("CREATE TABLE installed (key INTEGER, place INTEGER)")
        self._tops = [os.fsencode(tree.tree) + b"/" for tree in installed]
        self._streams = [
            _Stream(number, tree.contents, database)
            for number, tree in enumerate(installed[:MOST_TREES])
        ]

    def close(self) -> None:
        """Close the manifests."""
        for stream in self._streams:
            stream.close()

    def reader(self) -> ManifestReader | None:
        """Return the reader of the first tree, to share its parsing."""
        return self._streams[0].reader if self._streams else None

    def match(self, path: bytes) -> list[tuple[int, Entry]]:
        """Read on, past ``path``; return what the trees have there, by number."""
        found: list[tuple[int, Entry]] = []
        for stream in self._streams:
            while (entry := stream.latest) is not None and entry.path <= path:
                stream.advance()
                if entry.path == path:
                    found.append((stream.number, entry))
        return found

    def finish(self) -> None:
        """Read the rest, and make everything ready to be found."""
        for stream in self._streams:
            while stream.latest is not None:
                stream.advance()
            stream.flush()
        self._db.execute("CREATE INDEX by_key ON installed (key, place)")

    def look(self, tree: int, entry: Entry) -> Candidate | None:
        """Return a file of a tree if it still has the kind, size and time it should."""
        if entry.digest in self._distrust:
            return None
        try:
            facts = os.lstat(self._tops[tree] + entry.path)
        except OSError:
            return None
        if (
            facts.st_size == entry.size
            and stat.S_ISREG(facts.st_mode)
            and same_time(entry.mtime_ns, facts.st_mtime_ns)
        ):
            return Candidate(tree, entry, facts)
        return None

    def find(self, digest: bytes) -> Iterator[Candidate]:
        """Yield installed files of a content, those of the best tree first."""
        query = "SELECT place FROM installed WHERE key = ? ORDER BY place"
        rows = self._db.execute(query, (_key(digest),))
        for (place,) in itertools.islice(rows, _MOST_CANDIDATES):
            tree, offset = place >> _OFFSET_BITS, place & ((1 << _OFFSET_BITS) - 1)
            entry = self._streams[tree].read_at(offset)
            if entry and entry.digest == digest and (found := self.look(tree, entry)):
                yield found


class _Stream:
    """One installed manifest, read once from its start, then here and there.

    Attributes:
        latest: The entry that comes next; None at the end.
    """

    def __init__(
        self, number: int, contents: Path, database: sqlite3.Connection
    ) -> None:
        self.number = number
        self.reader: ManifestReader | None = None
        self.latest: Entry | None = None
        self._db = database
        self._rows: list[tuple[int, int]] = []
        self._file: BinaryIO | None = None
        self._entries: Iterator[Entry] = iter(())
        self._place = number << _OFFSET_BITS
        try:
            self._file = open(contents, "rb")  # noqa: SIM115 - `close` does
            self.reader = ManifestReader(self._file)
            self._place += self._file.tell()
            self._entries = iter(self.reader)
            self.latest = next(self._entries, None)
        except (OSError, UpdateError) as reason:
            self._give_up(reason)

    def close(self) -> None:
        if self._file:
            self._file.close()

    def advance(self) -> None:
        """Note the entry that is left, and go on to the next one."""
        entry, reader = self.latest, self.reader
        if entry is None or reader is None or reader.latest is None:
            return
        if entry.kind is Kind.FILE and entry.leader is None:
            self._rows.append((_key(entry.digest), self._place))
            if len(self._rows) >= _BATCH:
                self.flush()
        self._place += len(reader.latest[0])
        try:
            self.latest = next(self._entries, None)
        except (OSError, UpdateError) as reason:
            self._give_up(reason)

    def flush(self) -> None:
        self._db.executemany("INSERT INTO installed VALUES (?, ?)", self._rows)
        self._rows.clear()

    def read_at(self, offset: int) -> Entry | None:
        """Return the entry whose line begins at an offset."""
        if self._file is None:
            return None
        try:
            self._file.seek(offset)
            return parse_entry(self._file.readline())
        except (OSError, UpdateError) as reason:
            self._give_up(reason)
        return None

    def _give_up(self, reason: Exception) -> None:
        """Go without the rest of this manifest."""
        self.latest = None
        _log.info("the manifest of tree %d is of no use: %s", self.number, reason)


def _key(digest: bytes) -> int:
    return int.from_bytes(digest[:8], "big", signed=True)


@contextlib.contextmanager
def database_errors(path: Path) -> Iterator[None]:
    """Turn what the database says about its file into our errors.

    Raises:
        NoSpace: The disk is full.
        DiskFailed: Anything else.
    """
    try:
        yield
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
            raise no_space(path, 1) from error
        raise DiskFailed(str(path), str(error)) from error
