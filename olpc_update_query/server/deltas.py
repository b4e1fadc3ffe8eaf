"""Writes delta packs, from two published builds alone.

Neither tree is needed: contents are read from the builds' own packs. So a delta can
be made long after the old tree is gone, and is always about what was published.
"""

import contextlib
import io
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from mmap import mmap
from pathlib import Path
from shutil import copyfileobj
from typing import IO, NamedTuple

from olpc_update_query.model.delta import DeltaHeader, encode_delta_frame
from olpc_update_query.model.inside import MAX_INNER
from olpc_update_query.model.manifest import Kind, ManifestReader
from olpc_update_query.model.pack import SEGMENT, Frame, Segment, pack_segment
from olpc_update_query.model.whole import PACK_LEVEL, pack_content
from olpc_update_query.model.wire import Sha256
from olpc_update_query.server.archive import (
    Archive,
    DeltaArchive,
    digest_of,
    let_go,
    map_file,
)
from olpc_update_query.server.bases import Windows, choose_bases
from olpc_update_query.server.packing import (
    DELTA_LEVEL,
    SPOOLED,
    Content,
    append,
    in_order,
    in_turn,
    iter_chunks,
    spool,
)
from olpc_update_query.server.takeapart import taken_apart
from olpc_update_query.system.closing import Closing

INSIDE = "inside.pack"
_AHEAD = 8 << 20  # a large content takes as long as hundreds of small ones
_MIN_INSIDE = 64 << 10
_FEW = 64  # a patch of so small a part of its segment is small enough
_Packed = Sequence[tuple[Segment, bytes]]

_DIGEST = 40  # what a digest and a number take there
_LINE = 48  # what a patch costs more than a whole content in the packed index


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
        _writer(old, new, target.parent) as writer,
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


def write_inside(build: Path) -> int:
    """Write what contents of a build can be made of others of the same build.

    That is worth much for an initrd, which holds many files of its tree once more.

    Args:
        build: Directory of the build; its ``inside.pack`` is made when there is any.

    Returns:
        How many contents there are.
    """
    count = 0
    with Archive(build) as pack, _writer(build, build, build) as writer:
        frames = filter(_may_hold_others, pack.frames.values())
        for made in in_order(partial(_made_of_others, pack), frames):
            if made is not None:
                writer.add(*made)
                count += 1
        if count:
            writer.write(build / INSIDE)
    return count


def _may_hold_others(frame: Frame) -> bool:
    return frame.size >= _MIN_INSIDE and _is_packed(frame)


def _made_of_others(pack: Archive, whole: Frame) -> tuple[Frame, IO[bytes]] | None:
    work = pack.path
    with pack.hold(whole, work) as content, taken_apart(content, work) as apart:
        if apart is None or not apart.holds_any(pack.frames):
            return None
        described = apart.describe(pack.frames)
    if described is None:
        return None
    inside, raw = described
    parts = list(_patch(raw, b""))
    segments = tuple(segment for segment, _ in parts)
    frame = Frame(whole.digest, whole.size, None, 0, segments, inside)
    if _cost(frame) > whole.packed // 2:
        return None
    return frame, spool((packed for _, packed in parts), work)


@contextlib.contextmanager
def open_inside(build: Path) -> Iterator[DeltaArchive | None]:
    """Open a build's ``inside.pack``; None when it has none."""
    if not (build / INSIDE).is_file():
        yield None
        return
    with DeltaArchive(build / INSIDE) as archive:
        yield archive


def _writer(old: Path, new: Path, work: Path) -> "_Writer":
    return _Writer(digest_of(old / "contents"), digest_of(new / "contents"), work)


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


class _Writer(Closing):
    """Puts a delta pack together: header, manifest, index, frames.

    Args:
        old: Digest of the manifest that it starts from.
        new: Digest of the manifest that it leads to.
        work: Where what is large is kept meanwhile.
    """

    def __init__(self, old: Sha256, new: Sha256, work: Path) -> None:
        self._old, self._new = old, new
        self._index, self._body = spool((), work), spool((), work)

    def close(self) -> None:
        """Forget everything."""
        self._index.close()
        self._body.close()

    def add(self, frame: Frame, kept: IO[bytes]) -> None:
        """Add a frame, wherever it was before."""
        self._index.write(encode_delta_frame(frame))
        append(self._body, kept)

    def write(self, target: Path, manifest: _Packed = ()) -> int:
        """Write the file and return its length.

        Args:
            target: The file.
            manifest: The new manifest's segments.
        """
        index_size, body = self._index.tell(), self._body.tell()
        self._index.seek(0)
        packed = b"".join(
            pack_content(iter_chunks(self._index), index_size, DELTA_LEVEL)
        )
        segments = tuple(segment for segment, _ in manifest)
        header = DeltaHeader(self._old, self._new, 0, segments, len(packed), index_size)
        self._body.seek(0)
        with open(target, "wb") as out:
            out.write(_with_length(header, body).encode())
            out.writelines(patch for _, patch in manifest)
            out.write(packed)
            copyfileobj(self._body, out)
            return out.tell()


def _with_length(header: DeltaHeader, body: int) -> DeltaHeader:
    """Fill in the file's length, whose digits are a part of it themselves."""
    while header.frames_offset + body != header.length:
        header = header._replace(length=header.frames_offset + body)
    return header


def _patch_manifest(old: Path, new: Path) -> _Packed:
    with (
        _mapped(old) as base,
        _mapped(new) as content,
        in_turn(len(base) + len(content)),
    ):
        return list(_patch(content, base))


def _patch(
    content: bytes | mmap, base: bytes | mmap
) -> Iterator[tuple[Segment, bytes]]:
    windows = Windows(base, len(content))
    for offset in range(0, len(content), SEGMENT):
        raw = content[offset : offset + SEGMENT]
        start, length = windows.choose(raw, offset)
        packed = _pack_patch(raw, base[start : start + length])
        yield Segment(start, length, len(packed), len(raw)), packed
        let_go(content)
        let_go(base)


def _pack_patch(raw: bytes, base: bytes) -> bytes:
    """Pack a segment as well as it pays.

    The highest level takes seconds for a large base, and most where nearly everything
    is the same: there a lower one leaves next to nothing as well.
    """
    quick = pack_segment(raw, base, PACK_LEVEL)
    if len(quick) * _FEW <= len(raw):
        return quick
    return min(quick, pack_segment(raw, base, DELTA_LEVEL), key=len)


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
        if base is not None and whole.packed > _LINE:
            patched = self._patched(whole, self._old.frames[base.digest])
            if patched is not None:
                return patched
        with in_turn(whole.size):
            chunks = pack_content(self._new.unpack(whole), whole.size, DELTA_LEVEL)
            kept = spool(chunks, self._work)
        segment = Segment(0, 0, size_of(kept), whole.size)
        return _Part(whole._replace(offset=0, segments=(segment,)), kept)

    def _patched(self, whole: Frame, base: Frame) -> _Part | None:
        """Return the patch, or None when it is no smaller than the whole."""
        with (
            in_turn(whole.size + base.size),
            self._new.hold(whole, self._work) as new,
            self._old.hold(base, self._work) as old,
        ):
            if _is_packed(whole) and (inside := self._patched_inside(whole, new, old)):
                frame, packed = inside
                return _Part(
                    frame._replace(base=base.digest), spool(packed, self._work)
                )
            segments: list[Segment] = []
            room = whole.packed - _LINE
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
            described = apart.describe(())
            if described is None:
                return None
            inside, raw = described
            parts = list(_patch(raw, base.flat()))
            frame = Frame(
                *(whole.digest, whole.size, None, 0),
                tuple(segment for segment, _ in parts),
                inside._replace(members=base.members()),
            )
            packed = [packed for _, packed in parts]
        return (frame, packed) if _cost(frame) < whole.packed * 3 // 4 else None


def size_of(kept: IO[bytes]) -> int:
    """Return how many bytes were spooled."""
    size = kept.seek(0, io.SEEK_END)
    kept.seek(0)
    return size


def _is_packed(frame: Frame) -> bool:
    """Tell whether zstd could do nothing with a content: it may be compressed."""
    return frame.packed > frame.size * 7 // 8


def _cost(frame: Frame) -> int:
    """Return about how many bytes a frame takes, its part of the index included."""
    copies = frame.inside.copies if frame.inside else ()
    return frame.packed + 2 * _LINE + _DIGEST * len(copies)


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
    for segment, packed in _patch(new, old):
        segments.append(segment)
        yield packed
        room -= segment.packed
        if room <= 0:
            return


@contextlib.contextmanager
def _mapped(path: Path) -> Iterator[mmap]:
    with open(path, "rb") as file, map_file(file) as content:
        yield content
