"""Writes the full pack of a build.

The frames come in the order of the files that are given. The publisher has the newest
first, so that what an update changed lies together and few ranges bring it all. Each
file is read once: what is hashed is what is packed. A frame is made from nothing but
its content, so the same tree gives the same pack; one that an earlier build has already
is taken from there.
"""

import hashlib
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from shutil import copyfileobj
from typing import IO, NamedTuple, TypeVar

from olpc_update_query.errors import CorruptContent
from olpc_update_query.model.entry import Entry, TreePath
from olpc_update_query.model.pack import (
    Frame,
    PackHeader,
    Segment,
    encode_pack_frame,
    encode_pack_header,
)
from olpc_update_query.model.whole import (
    PACK_LEVEL,
    pack_content,
    pack_whole,
    unpack_whole,
)
from olpc_update_query.model.wire import Sha256
from olpc_update_query.ports import Progress
from olpc_update_query.server.archive import IN_MEMORY, LINES, Archive
from olpc_update_query.server.inside import InsidePack
from olpc_update_query.server.tree import Tree
from olpc_update_query.server.walk import changed

_AHEAD = 32
_ROOM = 24 << 20  # bytes of contents that may be ahead
_BATCH = 1 << 20
_MOST = 128  # contents of a batch
_COPY = 1 << 20

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def in_order(
    work: Callable[[_Item], _Result],
    items: Iterable[_Item],
    drop: Callable[[_Result], None] | None = None,
    ahead: int = _AHEAD,
    weigh: Callable[[_Item], int] = lambda _: 1,
) -> Iterator[_Result]:
    """Do the same to many things, on all processors, and return the results in order.

    A slow one holds up the results, not the work on those behind it.

    Args:
        work: What to do.
        items: The things.
        drop: What to do with results that nobody wants any more, after an error.
        ahead: How many results may wait for a slow one before them,
        weigh: or how much they may weigh: what a thing counts.
    """
    waiting: deque[tuple[int, Future[_Result]]] = deque()
    waits = 0
    try:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            try:
                for item in items:
                    waiting.append((weigh(item), pool.submit(work, item)))
                    waits += waiting[-1][0]
                    while waits > ahead:
                        weight, future = waiting.popleft()
                        waits -= weight
                        yield future.result()
                while waiting:
                    yield waiting.popleft()[1].result()
            finally:
                for _, future in waiting:
                    future.cancel()
    finally:
        for _, future in waiting:
            if drop and not future.cancelled() and not future.exception():
                drop(future.result())


class Pack(NamedTuple):
    """A full pack that was written.

    Attributes:
        digests: SHA-256 of each file's content, by its path.
        contents: How many of them are distinct: how many frames it has.
        length: Its length in bytes.
    """

    digests: dict[TreePath, bytes]
    contents: int
    length: int


def write_pack(
    target: Path,
    tree: Tree,
    files: Sequence[Entry],
    archives: Sequence[Archive],
    inside: InsidePack,
    progress: Progress,
) -> Pack:
    """Write ``pack``, and beside it `LINES`, from which a killed publication goes on.

    Args:
        target: The build's directory.
        tree: The tree with the files.
        files: Those of its files that are no other's name, in the order of the pack.
        archives: Earlier builds whose frames may be used again.
        inside: Who is told of each content that it wants.
        progress: Who is told how far it is.

    Raises:
        UnfitTree: A file cannot be read, or is not what it was.
    """
    total = sum(file.size for file in files)
    digests: dict[TreePath, bytes] = {}
    written: set[bytes] = set()
    done = 0
    packer = _Packer(tree, files, archives)
    with open(target / "pack", "wb") as out, open(target / LINES, "wb") as lines:
        for packed in packer.frames(files):
            file, digest = packed.file, packed.digest
            if digest not in written:
                start = out.tell()
                digest = packer.write(packed, out)
                written.add(digest)
                frame = _frame(digest, start, out.tell() - start, file.size)
                lines.write(encode_pack_frame(frame))
                if inside.wants(frame):
                    out.flush()
                    inside.begin(frame)
            digests[file.path] = digest
            done += file.size
            progress.transferred(done, total)
        return Pack(digests, len(written), out.tell())


def write_index(target: Path, manifest: Sha256, pack: Pack) -> None:
    """Write ``pack.index``, in the place of `LINES`.

    Args:
        target: The build's directory.
        manifest: Digest of the build's manifest, hex.
        pack: What was written.
    """
    header = PackHeader(manifest, pack.contents, pack.length)
    with (
        open(target / LINES, "rb") as lines,
        open(target / "pack.index", "wb") as index,
    ):
        index.write(encode_pack_header(header))
        copyfileobj(lines, index)


def _frame(digest: bytes, offset: int, packed: int, size: int) -> Frame:
    return Frame(digest, size, None, offset, (Segment(0, 0, packed, size),))


class _Packed(NamedTuple):
    """What is known of a file.

    Attributes:
        file: The file.
        digest: SHA-256 of its content; empty where it is found while it is packed.
        frame: The frame; None for what is too large to be held, and for a content that
            an earlier file has.
    """

    file: Entry
    digest: bytes
    frame: bytes | None


class _Packer:
    """Makes or finds the frames of files."""

    def __init__(
        self, tree: Tree, files: Iterable[Entry], archives: Iterable[Archive]
    ) -> None:
        self._tree = tree
        self._places: dict[bytes, int] = {}
        self._earlier: dict[bytes, tuple[Archive, Frame]] = {}
        for archive in archives:
            for digest, frame in archive.frames.items():
                self._earlier.setdefault(digest, (archive, frame))
        sizes = Counter(file.size for file in files)
        sizes.update(frame.size for _, frame in self._earlier.values())
        self._again = {size for size, count in sizes.items() if count > 1}

    def frames(self, files: Iterable[Entry]) -> Iterator[_Packed]:
        """Yield each file with its frame, if it was small and is new."""
        batches = _batches(enumerate(files))
        for batch in in_order(self._pack_batch, batches, ahead=_ROOM, weigh=_weight):
            yield from batch

    def _pack_batch(self, batch: Iterable[tuple[int, Entry]]) -> list[_Packed]:
        return [self._pack(place, file) for place, file in batch]

    def _pack(self, place: int, file: Entry) -> _Packed:
        told = hashlib.sha256()
        if file.size > IN_MEMORY:
            if file.size not in self._again:
                return _Packed(file, b"", None)
            for _ in self._read(file, told):
                pass
            return _Packed(file, told.digest(), None)
        content = b"".join(self._read(file, told))
        digest = told.digest()
        if self._places.setdefault(digest, place) < place:
            return _Packed(file, digest, None)
        frame = self._found(digest, content) or pack_whole(content, PACK_LEVEL)
        return _Packed(file, digest, frame)

    def _found(self, digest: bytes, content: bytes) -> bytes | None:
        """Return the frame of an earlier build, if it holds the content indeed."""
        archive, frame = self._earlier.get(digest, (None, None))
        if archive is None or frame is None or frame.size != len(content):
            return None
        with suppress(CorruptContent, OSError):
            packed = archive.read(frame)
            if unpack_whole(packed, frame.size) == content:
                return packed
        return None

    def write(self, packed: _Packed, out: IO[bytes]) -> bytes:
        """Write the frame of a content, and return its digest."""
        file, digest, whole = packed
        if whole is not None:
            out.write(whole)
            return digest
        archive, frame = self._earlier.get(digest, (None, None))
        if archive and frame and is_sound(archive, frame):
            copyfileobj(archive.packed(frame), out, _COPY)
            return digest
        told = hashlib.sha256()
        out.writelines(pack_content(self._read(file, told), file.size, PACK_LEVEL))
        if digest not in {b"", told.digest()}:
            raise changed(file.path)
        return told.digest()

    def _read(self, file: Entry, told: "hashlib._Hash") -> Iterator[bytes]:
        """Read a file of the size that was told, and hash it meanwhile."""
        left = file.size
        for chunk in self._tree.read(file.path, file.size):
            told.update(chunk)
            left -= len(chunk)
            yield chunk
        if left:
            raise changed(file.path)


def _weight(batch: Iterable[tuple[int, Entry]]) -> int:
    return sum(file.size for _, file in batch if file.size <= IN_MEMORY)


def _batches(files: Iterable[tuple[int, Entry]]) -> Iterator[list[tuple[int, Entry]]]:
    """Put small files together: handing one over costs as much as packing it."""
    batch: list[tuple[int, Entry]] = []
    size = 0
    for place, file in files:
        batch.append((place, file))
        size += file.size
        if size >= _BATCH or len(batch) == _MOST:
            yield batch
            batch, size = [], 0
    yield batch


def is_sound(archive: Archive, frame: Frame) -> bool:
    """Tell whether a content is what its digest says."""
    try:
        for _ in archive.unpack(frame):
            pass
    except (CorruptContent, OSError):
        return False
    return True
