"""The manifest of a build: every path, one line each, sorted by the path's bytes.

``docs/manifest.md`` is the format's description; its sample is parsed by a test.
A manifest may have hundreds of thousands of lines, so everything here works on one
line at a time, and two manifests are compared by one merge pass.
"""

from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import BinaryIO, NamedTuple

from olpc_update_query.errors import Malformed
from olpc_update_query.model import canonical
from olpc_update_query.model.canonical import Json
from olpc_update_query.model.entry import (
    ROOT,
    Entry,
    Kind,
    TreePath,
    decode_name,
    encode_entry,
    encode_name,
    parse_entry,
    parse_path,
)
from olpc_update_query.model.fields import MAX_HEADER, parse_header_fields
from olpc_update_query.model.wire import BuildId, parse_build_id

__all__ = [
    "MAX_HEADER",
    "MAX_LINE",
    "ROOT",
    "Change",
    "Difference",
    "Entry",
    "Header",
    "Kind",
    "ManifestReader",
    "TreePath",
    "compare",
    "decode_name",
    "encode_entry",
    "encode_header",
    "encode_name",
    "parse_entry",
    "parse_header",
    "parse_path",
    "same_time",
]

MAX_LINE = 1 << 20
_FORMAT = "olpc-update-contents"
_VERSION = 1
_SECOND = 1_000_000_000


class Header(NamedTuple):
    """The first line of a manifest.

    Attributes:
        build: The build's name.
        entries: How many lines follow.
        files: How many of them are files, hard-linked ones each counted.
        bytes: Sum of the files' sizes, each hard-link group counted once.
    """

    build: BuildId
    entries: int
    files: int
    bytes: int


def encode_header(header: Header) -> bytes:
    """Return the first line of a manifest."""
    counts: dict[str, Json] = {
        "build": header.build,
        "bytes": header.bytes,
        "entries": header.entries,
        "files": header.files,
    }
    return canonical.encode([_FORMAT, _VERSION, counts]) + b"\n"


def parse_header(line: bytes) -> Header:
    """Read the first line of a manifest.

    Raises:
        Malformed: It is not one, or of a version that is not known.
    """
    match parse_header_fields(line, _FORMAT, _VERSION):
        case {"build": str(build), "bytes": total, "entries": entries, "files": files}:
            header = Header(
                parse_build_id(build), _count(entries), _count(files), _count(total)
            )
        case _:
            raise Malformed("manifest", "its header lacks a field")
    if encode_header(header) != line:
        raise Malformed("manifest", "its header has an unknown field or no end")
    return header


def _count(value: Json) -> int:
    if type(value) is not int or value < 0:
        raise Malformed("manifest", "its header counts with something else")
    return value


# --- reading ------------------------------------------------------------------


class ManifestReader:
    """Reads a manifest once, from its start, in constant memory.

    Iterating yields the entries and raises `Malformed` or `UnsafePath` where the
    manifest is wrong: a path out of order or twice, a path whose parent is not a
    directory, a line too long, or counts that are not the header's. What needs the
    whole manifest (that a hard link's leader exists) is left to the installer.

    Args:
        stream: The manifest, at its first byte.

    Raises:
        Malformed: The header is not one.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._peer: ManifestReader | None = None
        self.latest: tuple[bytes, Entry] | None = None
        self.header = parse_header(self._read_line())

    def share_parsing(self, peer: "ManifestReader") -> None:
        """Take an entry from a peer whose latest line is the same.

        Read in step, two manifests that hardly differ cost little more than one.
        """
        self._peer = peer

    def __iter__(self) -> Iterator[Entry]:
        number = 1
        try:
            check = _Check()
            while line := self._read_line():
                number += 1
                entry = self._parse(line)
                check.admit(entry)
                yield entry
            check.finish(self.header)
        except Malformed as wrong:
            raise Malformed("manifest", f"line {number}: {wrong.reason}") from None

    def _read_line(self) -> bytes:
        line = self._stream.readline(MAX_LINE + 1)
        if len(line) > MAX_LINE:
            raise Malformed("manifest", f"a line is longer than {MAX_LINE} bytes")
        return line

    def _parse(self, line: bytes) -> Entry:
        known = self._peer and self._peer.latest
        entry = known[1] if known and known[0] == line else parse_entry(line)
        self.latest = (line, entry)
        return entry


class _Check:
    """What one pass can say about a manifest as a whole.

    A directory is open as long as paths below it may come. Every open directory is a
    prefix of the latest one, so there are only ever a few.
    """

    def __init__(self) -> None:
        self._open: dict[bytes, None] = {}
        self._path = ROOT
        self._parent: bytes | None = None
        self._entries = self._files = self._bytes = 0

    def admit(self, entry: Entry) -> None:
        """Count an entry that may come here; refuse any other."""
        path, kind = entry.path, entry.kind
        if self._entries:
            if path <= self._path:
                raise Malformed("manifest", "a path is out of order")
            parent = path.rpartition(b"/")[0]
            if parent != self._parent:
                self._enter(parent, path)
        elif path or kind is not Kind.DIRECTORY:
            raise Malformed("manifest", "the first entry is not the tree's directory")
        if kind is Kind.DIRECTORY:
            self._close_before(path)
            self._open[path] = None
        elif kind is Kind.FILE:
            self._files += 1
            if entry.leader is None:
                self._bytes += entry.size
        self._entries += 1
        self._path = path

    def _enter(self, parent: bytes, path: bytes) -> None:
        self._close_before(path)
        if parent not in self._open:
            raise Malformed("manifest", "a path's parent is not a directory")
        self._parent = parent

    def _close_before(self, path: bytes) -> None:
        while self._open:
            latest, _ = self._open.popitem()
            if not latest or path < latest + b"0":  # "0" is the byte after "/"
                self._open[latest] = None
                return

    def finish(self, header: Header) -> None:
        """Compare what was counted with what the header promised."""
        if not self._entries:
            raise Malformed("manifest", "it has no entry")
        if (self._entries, self._files, self._bytes) != header[1:]:
            raise Malformed("manifest", "the header counts other entries")


# --- comparing ----------------------------------------------------------------


class Difference(StrEnum):
    """How a path of the new build compares with the old one."""

    UNCHANGED = "unchanged"
    METADATA = "metadata"
    CONTENT = "content"
    ADDED = "added"
    REMOVED = "removed"


class Change(NamedTuple):
    """One path in two builds.

    Attributes:
        old: Its entry in the old build, if it is there.
        new: Its entry in the new build, if it is there.
    """

    old: Entry | None
    new: Entry | None

    @property
    def kind(self) -> Difference:
        """Say how they differ; another kind of path is another content."""
        old, new = self
        if old is None:
            return Difference.ADDED
        if new is None:
            return Difference.REMOVED
        if old is new or old == new:
            return Difference.UNCHANGED
        if _content(old) == _content(new):
            return Difference.METADATA
        return Difference.CONTENT


def _content(entry: Entry) -> tuple[object, ...]:
    return entry.kind, entry.size, entry.digest, entry.target, entry.device


def compare(old: Iterable[Entry], new: Iterable[Entry]) -> Iterator[Change]:
    """Pair the entries of two builds by path, in one merge pass.

    Args:
        old: Entries in path order; for speed, a `ManifestReader`.
        new: The same of the other build.

    Yields:
        Every path of either build, once, in path order.
    """
    if isinstance(old, ManifestReader) and isinstance(new, ManifestReader):
        new.share_parsing(old)
    olds, news = iter(old), iter(new)
    left, right = next(olds, None), next(news, None)
    while left is not None or right is not None:
        if right is None or (left is not None and left.path < right.path):
            yield Change(left, None)
            left = next(olds, None)
        elif left is None or right.path < left.path:
            yield Change(None, right)
            right = next(news, None)
        else:
            yield Change(left, right)
            left, right = next(olds, None), next(news, None)


def same_time(wanted_ns: int, found_ns: int) -> bool:
    """Say whether a file has the time it should have.

    Some file systems keep whole seconds only, and so do most archives that builds are
    published from. Then the second has to do: time is no proof of anything here.
    """
    if wanted_ns == found_ns:
        return True
    is_coarse = wanted_ns % _SECOND == 0 or found_ns % _SECOND == 0
    return is_coarse and wanted_ns // _SECOND == found_ns // _SECOND
