"""The tree in a tar archive.

Nothing of it is unpacked to the disk: owners, devices and attributes need no root, and
no path of an archive leads anywhere. A compressed archive is expanded into a file
without a name first, because contents are read in another order than they lie there.

What a school server's archive holds may be the whole of a laptop's disk: then the
first build below ``versions/pristine`` is the tree, or else all but ``versions``.
"""

import bz2
import gzip
import lzma
import os
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from olpc_update_query.errors import Malformed, UnfitTree, UnsafePath
from olpc_update_query.model.entry import (
    MAX_ID,
    MAX_PATH,
    Entry,
    Kind,
    TreePath,
    encode_name,
    parse_path,
)
from olpc_update_query.ports import Progress
from olpc_update_query.server.archive import iter_chunks, open_stretch
from olpc_update_query.server.tar import Member, Stretch, Type, read_members
from olpc_update_query.server.walk import LEFT_OUT, belongs, check_size
from olpc_update_query.system.closing import Closing

_CHUNK: Final = 1 << 20
_ZEROS: Final = bytes(_CHUNK)
_MEMORY: Final = 256 << 20  # for xz to expand with
_BOMB: Final = 1000  # times its own size
_FREE: Final = 1 << 30  # bytes that are no bomb, however small the archive
_PRISTINE: Final = b"versions/pristine/"
_VERSIONS: Final = b"versions/"
_KINDS: Final = {
    Type.FILE: Kind.FILE,
    Type.SYMLINK: Kind.SYMLINK,
    Type.CHAR: Kind.CHAR,
    Type.BLOCK: Kind.BLOCK,
    Type.DIRECTORY: Kind.DIRECTORY,
    Type.FIFO: Kind.FIFO,
}
_Expand = Callable[[BinaryIO], Iterator[bytes]]

NO_TIME_NS: Final = 315_532_800 * 1_000_000_000
"""What a directory gets that the archive does not have: 1980-01-01."""


class Tarball(Closing):
    """A tar archive as a tree (``tree.Tree``).

    Args:
        path: The archive; gzip, bzip2, xz, lzma or zstd may have packed it.
        work: Where an expanded one is kept meanwhile, in a file without a name.
        progress: Who is told.

    Raises:
        UnfitTree: It is no archive, is damaged, or holds what no tree can.
        OSError: It cannot be read, or there is no room to expand it.
    """

    def __init__(self, path: Path, work: Path, progress: Progress) -> None:
        self._name = path.name
        with ExitStack() as stack:
            self._file: BinaryIO = stack.enter_context(open(path, "rb"))
            if (expand := _packer_of(self._file)) is not None:
                progress.step(f"expanding {path.name}")
                self._file = self._expanded(expand, work)
                stack.callback(self._file.close)
            try:
                self._nodes = _Collector(progress).collect(read_members(self._file))
            except Malformed as error:
                raise UnfitTree(self._name, f"{error.what}: {error.reason}") from error
            stack.pop_all()

    def _expanded(self, expand: _Expand, work: Path) -> BinaryIO:
        limit = _FREE + _BOMB * os.fstat(self._file.fileno()).st_size
        with ExitStack() as stack, self._file as packed:
            out: BinaryIO = stack.enter_context(tempfile.TemporaryFile(dir=work))
            for chunk in self._undamaged(expand(packed)):
                out.write(chunk)
                if out.tell() > limit:
                    raise UnfitTree(self._name, f"it grows more than {_BOMB} times")
            out.flush()
            stack.pop_all()
        return out

    def _undamaged(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """Pass on what is expanded, and say it plainly when that goes wrong."""
        import zstandard

        try:
            yield from chunks
        except (
            EOFError,
            gzip.BadGzipFile,
            lzma.LZMAError,
            zlib.error,
            zstandard.ZstdError,
        ) as error:
            raise UnfitTree(self._name, f"it is damaged: {error}") from error
        except OSError as error:  # bz2 has no error of its own
            if error.errno is not None:
                raise
            raise UnfitTree(self._name, f"it is damaged: {error}") from error

    def close(self) -> None:
        """Close the archive, and drop what it was expanded to."""
        self._file.close()

    def entries(self, progress: Progress) -> Iterator[Entry]:
        """Yield the tree's entries in path order, without digests."""
        return (node.entry for node in self._nodes.values())

    def read(self, path: TreePath, size: int) -> Iterator[bytes]:
        """Yield the content of one of its files."""
        node = self._nodes[path]
        descriptor, at = self._file.fileno(), 0
        for start, length, place in node.parts:
            yield from _hole(start - at)
            yield from iter_chunks(open_stretch(descriptor, place, length))
            at = start + length
        yield from _hole(node.entry.size - at)

    def link(self, path: TreePath, target: bytes) -> bool:
        """Say that it has no files to link to."""
        return False


def _hole(length: int) -> Iterator[bytes]:
    while length > 0:
        yield _ZEROS[:length]
        length -= _CHUNK


# --- from members to a tree ---------------------------------------------------------


class _Node(NamedTuple):
    """A path of the tree.

    Attributes:
        entry: It, without the digest.
        parts: Where its content lies.
    """

    entry: Entry
    parts: tuple[Stretch, ...] = ()


class _Collector:
    """Makes a tree of the members of an archive."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._nodes: dict[TreePath, _Node] = {}
        self._names: dict[TreePath, list[TreePath]] = {}
        self._first_name: dict[TreePath, TreePath] = {}

    def collect(self, members: Iterable[Member]) -> dict[TreePath, _Node]:
        """Return the tree's paths in order.

        Raises:
            Malformed: A number is out of range.
            UnfitTree: A path is there twice, leads out, or through a link.
        """
        for path, member in _rooted([(_path(one.name), one) for one in members]):
            if path == LEFT_OUT or path.startswith(LEFT_OUT + b"/"):
                continue
            if path in self._nodes:
                raise UnfitTree(encode_name(path) or ".", "it is in the archive twice")
            self._nodes[path] = self._node(path, member)
        self._add_parents()
        for names in self._names.values():
            self._join(sorted(names))
        return dict(sorted(self._nodes.items()))

    def _node(self, path: TreePath, member: Member) -> _Node:
        if member.type is not Type.HARD:
            return _Node(_entry(path, member), member.parts)
        first = _path(member.target)
        first = self._first_name.get(first, first)
        node = self._nodes.get(first)
        if node is None or node.entry.kind is Kind.DIRECTORY:
            where = f"it is linked to {encode_name(first)}, which is no earlier file"
            raise UnfitTree(encode_name(path), where)
        if node.entry.kind is Kind.FILE:
            self._names.setdefault(first, [first]).append(path)
            self._first_name[path] = first
        return node._replace(entry=node.entry._replace(path=path))

    def _join(self, names: list[TreePath]) -> None:
        """Let the first of several names of a file lead."""
        for name in names[1:]:
            node = self._nodes[name]
            entry = node.entry._replace(leader=names[0])
            self._nodes[name] = node._replace(entry=entry)

    def _add_parents(self) -> None:
        """Make sure that each path lies in a directory."""
        for child in list(self._nodes):
            for path in _parents(child):
                node = self._nodes.get(path)
                if node is None:
                    self._nodes[path] = self._invent(path)
                elif node.entry.kind is Kind.DIRECTORY:
                    break
                else:
                    where = f"{encode_name(path)} is no directory"
                    raise UnfitTree(encode_name(child), where)

    def _invent(self, path: TreePath) -> _Node:
        name = encode_name(path) or "."
        self._progress.step(f"{name} is not in the archive: root gets it, mode 755")
        return _Node(Entry(path, Kind.DIRECTORY, 0o755, 0, 0, NO_TIME_NS))


def _parents(path: TreePath) -> Iterator[TreePath]:
    while path:
        path = TreePath(path.rpartition(b"/")[0])
        yield path


def _rooted(
    members: list[tuple[TreePath, Member]],
) -> Iterator[tuple[TreePath, Member]]:
    """Take the tree out of what else an archive of a laptop's whole disk holds."""
    top = b""
    for path, _ in members:
        if path.startswith(_PRISTINE):
            name = path.removeprefix(_PRISTINE).partition(b"/")[0]
            top = _PRISTINE + name
            break
    for path, member in members:
        if not top and not path.startswith(_VERSIONS):
            yield path, member
        elif top and (path == top or path.startswith(top + b"/")):
            yield TreePath(path[len(top) + 1 :]), _moved(member, top + b"/")


def _moved(member: Member, top: bytes) -> Member:
    if member.type is not Type.HARD:
        return member
    return member._replace(target=_path(member.target).removeprefix(top))


def _path(name: bytes) -> TreePath:
    """Return a member's path.

    Raises:
        UnfitTree: It is absolute, has ``..`` in it, or cannot be on a disk.
    """
    plain = name.removeprefix(b"./") if name != b"." else b""
    if plain.startswith(b"/") or not name:
        raise UnfitTree(encode_name(name[:255]) or "''", "it is an absolute path")
    try:
        return parse_path(plain.rstrip(b"/"))
    except UnsafePath as error:
        raise UnfitTree(encode_name(name[:255]), error.found) from error


def _entry(path: TreePath, member: Member) -> Entry:
    kind = _KINDS[member.type]
    is_device = kind in {Kind.CHAR, Kind.BLOCK}
    numbers = (member.uid, member.gid, *(member.device if is_device else ()))
    if not all(0 <= number <= MAX_ID for number in numbers):
        raise UnfitTree(encode_name(path), "a number of it is out of range")
    check_size(path, member.size)
    target = member.target if kind is Kind.SYMLINK else b""
    if kind is Kind.SYMLINK and not 0 < len(target) <= MAX_PATH:
        raise UnfitTree(encode_name(path), "it points nowhere, or too far")
    return Entry(
        path,
        kind,
        member.mode if kind is not Kind.SYMLINK else 0o777,
        member.uid,
        member.gid,
        member.mtime_ns,
        size=member.size,
        target=target,
        device=member.device if is_device else (0, 0),
        xattrs=tuple(sorted(one for one in member.xattrs.items() if belongs(one[0]))),
    )


# --- packers ------------------------------------------------------------------------


def _packer_of(file: BinaryIO) -> _Expand | None:
    """Tell by its first bytes how an archive is packed; None: it is not."""
    head = file.read(6)
    file.seek(0)
    for magic, expand in _PACKERS.items():
        if head.startswith(magic):
            return expand
    return None


def _gzip(file: BinaryIO) -> Iterator[bytes]:
    with gzip.GzipFile(fileobj=file) as expanded:
        while chunk := expanded.read(_CHUNK):
            yield chunk


def _zstd(file: BinaryIO) -> Iterator[bytes]:
    import zstandard

    expander = zstandard.ZstdDecompressor(max_window_size=1 << 27)
    with expander.stream_reader(file, read_across_frames=True) as expanded:
        yield from iter_chunks(expanded)


def _streams(
    make: Callable[[], bz2.BZ2Decompressor | lzma.LZMADecompressor], file: BinaryIO
) -> Iterator[bytes]:
    """Expand one stream after the other, never much at a time."""
    rest = file.read(_CHUNK)
    while rest:
        one = make()
        while not one.eof:
            if one.needs_input and not rest and not (rest := file.read(_CHUNK)):
                raise EOFError("it is cut short")
            yield one.decompress(rest if one.needs_input else b"", _CHUNK)
            rest = b""
        rest = (one.unused_data or file.read(_CHUNK)).lstrip(b"\0")


_lzma = partial(
    _streams, partial(lzma.LZMADecompressor, lzma.FORMAT_AUTO, memlimit=_MEMORY)
)
_PACKERS: Final[dict[bytes, _Expand]] = {
    b"\x1f\x8b": _gzip,
    b"BZh": partial(_streams, bz2.BZ2Decompressor),
    b"\xfd7zXZ\0": _lzma,
    b"\x5d\0\0": _lzma,
    b"\x28\xb5\x2f\xfd": _zstd,
}
