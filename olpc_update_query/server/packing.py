"""Writes the full pack of a build.

The frames come in the order of the contents that are given. The publisher has the
newest first, so that what an update changed lies together and few ranges bring it all.
A frame is made from nothing but its content, so the same tree gives the same pack;
one that an earlier build has already is taken from there.
"""

import hashlib
import os
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from shutil import copyfileobj
from typing import IO, NamedTuple, TypeVar

from olpc_update_query.errors import CorruptContent, UnfitTree
from olpc_update_query.model.entry import TreePath, encode_name
from olpc_update_query.model.pack import (
    Frame,
    PackHeader,
    Segment,
    encode_pack_frame,
    encode_pack_header,
)
from olpc_update_query.model.whole import PACK_LEVEL, pack_content, pack_whole
from olpc_update_query.model.wire import Sha256
from olpc_update_query.ports import Progress
from olpc_update_query.server.archive import IN_MEMORY, LINES, Archive
from olpc_update_query.server.tree import Tree

DELTA_LEVEL = 19
_CHUNK = 1 << 20
_AHEAD = 32
_BATCH = 1 << 20
_MOST = 128  # contents of a batch
_IN_MEMORY = 256 << 10
_HEAVY = 2 << 20
_COPY = 1 << 20

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


_heavy = threading.Semaphore(2)


class Content(NamedTuple):
    """One distinct content of a tree.

    Attributes:
        digest: Its SHA-256, 32 raw bytes.
        size: Its length in bytes.
        path: The first path that has it.
    """

    digest: bytes
    size: int
    path: TreePath


def in_order(
    work: Callable[[_Item], _Result],
    items: Iterable[_Item],
    drop: Callable[[_Result], None] | None = None,
    ahead: int = _AHEAD,
) -> Iterator[_Result]:
    """Do the same to many things, on all processors, and return the results in order.

    A slow one holds up the results, not the work on those behind it.

    Args:
        work: What to do.
        items: The things.
        drop: What to do with results that nobody wants any more, after an error.
        ahead: How many results may wait for a slow one before them.
    """
    waiting: deque[Future[_Result]] = deque()
    try:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            try:
                for item in items:
                    waiting.append(pool.submit(work, item))
                    if len(waiting) > ahead:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()
    finally:
        for future in waiting:
            if drop and not future.cancelled() and not future.exception():
                drop(future.result())


@contextmanager
def in_turn(size: int) -> Iterator[None]:
    """Let only two at a time work on much: each takes up to 170 MB for zstd's tables.

    Args:
        size: Bytes of the content, and of its base.
    """
    if size < _HEAVY:
        yield
        return
    with _heavy:
        yield


def spool(chunks: Iterable[bytes], directory: Path) -> IO[bytes]:
    """Keep pieces for a while, in memory or, when they are many, in a file.

    Args:
        chunks: The pieces.
        directory: Where the file is made; it has no name.

    Returns:
        A file at its first byte.
    """
    kept: IO[bytes] = tempfile.SpooledTemporaryFile(_IN_MEMORY, dir=str(directory))  # noqa: SIM115 - it is returned
    with ExitStack() as stack:
        stack.callback(kept.close)
        for chunk in chunks:
            kept.write(chunk)
        kept.seek(0)
        stack.pop_all()
    return kept


def append(out: IO[bytes], kept: IO[bytes]) -> int:
    """Move what was spooled to the end of a file and return how many bytes it was."""
    start = out.tell()
    with kept:
        copyfileobj(kept, out, _COPY)
    return out.tell() - start


def write_pack(
    target: Path,
    tree: Tree,
    contents: Sequence[Content],
    manifest: Sha256,
    archives: Sequence[Archive],
    progress: Progress,
) -> int:
    """Write ``pack`` and ``pack.index``.

    Beside them `LINES` is left, from which a killed publication goes on; whoever calls
    removes it.

    Args:
        target: The build's directory.
        tree: The tree with the contents.
        contents: Every distinct content once, in the order of the pack.
        manifest: Digest of the build's manifest, hex.
        archives: Earlier builds whose frames may be used again.
        progress: Who is told how far it is.

    Returns:
        Length of the pack in bytes.

    Raises:
        UnfitTree: A file is not what it was when it was hashed.
    """
    total = sum(content.size for content in contents)
    done = length = 0
    with open(target / "pack", "wb") as out, open(target / LINES, "w+b") as lines:
        for content, frame in _Packer(tree, archives).frames(contents):
            packed = sum(map(out.write, frame))
            lines.write(_index_line(content, packed))
            length += packed
            done += content.size
            progress.transferred(done, total)
        lines.seek(0)
        with open(target / "pack.index", "wb") as index:
            index.write(encode_pack_header(PackHeader(manifest, len(contents), length)))
            copyfileobj(lines, index)
    return length


def _index_line(content: Content, packed: int) -> bytes:
    segment = Segment(0, 0, packed, content.size)
    frame = Frame(content.digest, content.size, None, 0, (segment,))
    return encode_pack_frame(frame)


class _Packer:
    """Makes or finds the frames of contents."""

    def __init__(self, tree: Tree, archives: Sequence[Archive]) -> None:
        self._tree, self._archives = tree, archives

    def frames(
        self, contents: Iterable[Content]
    ) -> Iterator[tuple[Content, Iterable[bytes]]]:
        """Yield each content with its frame in pieces."""
        for batch in in_order(self._pack_batch, _batches(contents)):
            for content, frame in batch:
                yield content, self._stream(content) if frame is None else (frame,)

    def _pack_batch(
        self, batch: Sequence[Content]
    ) -> list[tuple[Content, bytes | None]]:
        """Return the frames, but not of what is too large to be held."""
        return [
            (content, self._pack(content) if content.size <= IN_MEMORY else None)
            for content in batch
        ]

    def _pack(self, content: Content) -> bytes:
        if found := self._find(content):
            archive, frame = found
            return archive.read(frame)
        return pack_whole(b"".join(self._read(content)), PACK_LEVEL)

    def _stream(self, content: Content) -> Iterator[bytes]:
        if found := self._find(content):
            archive, frame = found
            return iter_chunks(archive.packed(frame))
        return pack_content(self._read(content), content.size, PACK_LEVEL)

    def _find(self, content: Content) -> tuple[Archive, Frame] | None:
        for archive in self._archives:
            frame = archive.frames.get(content.digest)
            if frame is not None and is_sound(archive, frame):
                return archive, frame
        return None

    def _read(self, content: Content) -> Iterator[bytes]:
        """Read a content again; it must still be the one that was hashed."""
        digest = hashlib.sha256()
        for chunk in self._tree.read(content.path, content.size):
            digest.update(chunk)
            yield chunk
        if digest.digest() != content.digest:
            raise UnfitTree(encode_name(content.path), "it changed while it was read")


def _batches(contents: Iterable[Content]) -> Iterator[list[Content]]:
    """Put small contents together: handing one over costs as much as packing it."""
    batch: list[Content] = []
    size = 0
    for content in contents:
        batch.append(content)
        size += content.size
        if size >= _BATCH or len(batch) == _MOST:
            yield batch
            batch, size = [], 0
    yield batch


def iter_chunks(file: IO[bytes]) -> Iterator[bytes]:
    """Read a file to its end in pieces."""
    while chunk := file.read(_CHUNK):
        yield chunk


def is_sound(archive: Archive, frame: Frame) -> bool:
    """Tell whether a content is what its digest says."""
    try:
        for _ in archive.unpack(frame):
            pass
    except (CorruptContent, OSError):
        return False
    return True
