"""Writes delta packs, from two published builds alone.

Neither tree is needed: contents are read from the builds' own packs. So a delta can
be made long after the old tree is gone, and is always about what was published.
"""

import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from mmap import mmap
from pathlib import Path
from typing import IO, NamedTuple

from olpc_update_query.model.inside import MAX_INNER
from olpc_update_query.model.manifest import Kind, ManifestReader
from olpc_update_query.model.pack import Frame, Segment
from olpc_update_query.server.archive import Archive, iter_chunks, map_file
from olpc_update_query.server.bases import Content, choose_bases
from olpc_update_query.server.deltafile import (
    LINE,
    SPOOLED,
    DeltaWriter,
    Patched,
    cost_of,
    is_packed,
    pack_well,
    patch,
    size_of,
    spool,
)
from olpc_update_query.server.inside import open_inside
from olpc_update_query.server.packing import in_order
from olpc_update_query.server.takeapart import taken_apart

_AHEAD = 8 << 20  # a large content takes as long as hundreds of small ones
_HEAVY = 2 << 20

_heavy = threading.Semaphore(2)


def write_delta(old: Path, new: Path, target: Path) -> int:
    """Write the delta pack that leads from one published build to another.

    Args:
        old: Directory of the build that laptops have.
        new: Directory of the build that they shall have.
        target: The file.

    Returns:
        Its length in bytes.

    Raises:
        Malformed: One of the builds is damaged.
        CorruptContent: A content in one of the packs is.
    """
    missing = _missing(old, new)
    with open(old / "contents", "rb") as stream:
        bases = choose_bases(missing, ManifestReader(stream))
    wanted = {base.digest for base in bases.values()}
    with (
        ThreadPoolExecutor(1) as aside,
        Archive(old, wanted) as old_pack,
        Archive(new, {content.digest for content in missing}) as new_pack,
        open_inside(new) as inside,
        DeltaWriter(old, new, target.parent) as writer,
    ):
        manifest = aside.submit(_patch_manifest, old / "contents", new / "contents")
        made = {frame.digest: frame for frame in inside.frames()} if inside else {}
        patcher = _Patcher(old_pack, new_pack, bases, target.parent)
        rest = [content for content in missing if content.digest not in made]
        for part in in_order(
            patcher.make, rest, drop=_Part.close, ahead=_AHEAD, weigh=_weight
        ):
            writer.add(part.frame, part.kept)
        # last, because they are made of the others
        for content in missing:
            if inside and (frame := made.get(content.digest)):
                chunks = iter_chunks(inside.packed(frame))
                writer.add(frame, spool(chunks, target.parent))
        return writer.write(target, manifest.result())


def _missing(old: Path, new: Path) -> list[Content]:
    """Return the contents that only the new build has, in its manifest's order."""
    with open(old / "contents", "rb") as stream:
        seen = {entry.digest for entry in ManifestReader(stream)}
    missing: list[Content] = []
    with open(new / "contents", "rb") as stream:
        for entry in ManifestReader(stream):
            if entry.kind is Kind.FILE and entry.digest not in seen:
                seen.add(entry.digest)
                missing.append(Content(entry.digest, entry.size, entry.path))
    return missing


@contextlib.contextmanager
def _in_turn(size: int) -> Iterator[None]:
    """Let only two at a time work on much: each takes up to 170 MB for zstd's tables.

    Args:
        size: Bytes of the content, and of its base.
    """
    if size < _HEAVY:
        yield
        return
    with _heavy:
        yield


def _patch_manifest(old: Path, new: Path) -> Patched:
    with (
        _mapped(old) as base,
        _mapped(new) as content,
        _in_turn(len(base) + len(content)),
    ):
        return list(patch(content, base))


class _Part(NamedTuple):
    """A frame and its bytes."""

    frame: Frame
    kept: IO[bytes]

    def close(self) -> None:
        """Forget the bytes."""
        self.kept.close()


def _weight(content: Content) -> int:
    return min(content.size, SPOOLED)


class _Patcher:
    """Makes the frame of a content, as a patch where that is smaller."""

    def __init__(
        self, old: Archive, new: Archive, bases: dict[bytes, Content], work: Path
    ) -> None:
        self._old, self._new, self._bases, self._work = old, new, bases, work

    def make(self, content: Content) -> _Part:
        """Return the frame, its offset left to be known."""
        whole = self._new.frames[content.digest]
        base = self._bases.get(content.digest)
        if base is not None and whole.packed > LINE:
            patched = self._patched(whole, self._old.frames[base.digest])
            if patched is not None:
                return patched
        with _in_turn(whole.size):
            chunks = pack_well(self._new.unpack(whole), whole.size)
            kept = spool(chunks, self._work)
        segment = Segment(0, 0, size_of(kept), whole.size)
        return _Part(whole._replace(offset=0, segments=(segment,)), kept)

    def _patched(self, whole: Frame, base: Frame) -> _Part | None:
        """Return the patch, or None when it is no smaller than the whole."""
        with (
            _in_turn(whole.size + base.size),
            self._new.hold(whole, self._work) as new,
            self._old.hold(base, self._work) as old,
        ):
            if is_packed(whole) and (inside := self._patched_inside(whole, new, old)):
                frame, packed = inside
                return _Part(
                    frame._replace(base=base.digest), spool(packed, self._work)
                )
            segments: list[Segment] = []
            room = whole.packed - LINE
            kept = spool(_patch_within(room, new, old, segments), self._work)
        frame = Frame(whole.digest, whole.size, base.digest, 0, tuple(segments))
        if frame.packed < room:
            return _Part(frame, kept)
        kept.close()
        return None

    def _patched_inside(
        self, whole: Frame, new: bytes | mmap, old: bytes | mmap
    ) -> tuple[Frame, list[bytes]] | None:
        """Return a patch of what is inside, when that is much smaller."""
        with (
            taken_apart(new, self._work) as apart,
            taken_apart(old, self._work) as base,
        ):
            if apart is None or base is None or base.flat_size > MAX_INNER:
                return None
            described = apart.describe()
            if described is None:
                return None
            inside, raw = described
            parts = list(patch(raw, base.flat()))
            frame = Frame(
                *(whole.digest, whole.size, None, 0),
                tuple(segment for segment, _ in parts),
                inside._replace(members=base.members()),
            )
            packed = [packed for _, packed in parts]
        return (frame, packed) if cost_of(frame) < whole.packed * 3 // 4 else None


def _patch_within(
    room: int, new: bytes | mmap, old: bytes | mmap, segments: list[Segment]
) -> Iterator[bytes]:
    """Return the packed segments, and stop when they fill the room.

    Args:
        room: Bytes that the patch may take.
        new: The content.
        old: Its base.
        segments: Gets what each segment is.
    """
    for segment, packed in patch(new, old):
        segments.append(segment)
        yield packed
        room -= segment.packed
        if room <= 0:
            return


@contextlib.contextmanager
def _mapped(path: Path) -> Iterator[mmap]:
    with open(path, "rb") as file, map_file(file) as content:
        yield content
