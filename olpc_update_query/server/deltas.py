"""Writes delta packs, from two published builds alone.

Neither tree is needed: contents are read from the builds' own packs. So a delta can
be made long after the old tree is gone, and is always about what was published.
"""

import contextlib
from collections.abc import Iterator
from mmap import mmap
from pathlib import Path
from shutil import copyfileobj
from typing import IO, NamedTuple

from olpc_update_query.model.delta import DeltaHeader, encode_delta_frame
from olpc_update_query.model.manifest import Kind, ManifestReader
from olpc_update_query.model.pack import (
    SEGMENT,
    Frame,
    Segment,
    pack_content,
    pack_segment,
)
from olpc_update_query.server.archive import Archive, digest_of, map_file
from olpc_update_query.server.bases import Windows, choose_bases
from olpc_update_query.server.packing import (
    LEVEL,
    Content,
    append,
    in_order,
    in_turn,
    iter_chunks,
    spool,
)

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
        Archive(old, wanted) as old_pack,
        Archive(new, {content.digest for content in missing}) as new_pack,
        spool((), target.parent) as body,
        spool((), target.parent) as index,
    ):
        patcher = _Patcher(old_pack, new_pack, bases, target.parent)
        for part in in_order(patcher.make, missing, drop=_Part.close):
            index.write(encode_delta_frame(part.frame))
            append(body, part.kept)
        return _assemble(old, new, target, index, body)


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


def _assemble(
    old: Path, new: Path, target: Path, index: IO[bytes], body: IO[bytes]
) -> int:
    """Put the parts together: header, manifest, index, frames."""
    manifest, patches = _patch_manifest(old / "contents", new / "contents")
    index_size = index.tell()
    index.seek(0)
    packed_index = b"".join(pack_content(iter_chunks(index), index_size, LEVEL))
    header = DeltaHeader(
        old=digest_of(old / "contents"),
        new=digest_of(new / "contents"),
        length=0,
        manifest=manifest,
        index_packed=len(packed_index),
        index_size=index_size,
    )
    header = _with_length(header, body.tell())
    body.seek(0)
    with open(target, "wb") as out:
        out.write(header.encode())
        out.writelines(patches)
        out.write(packed_index)
        copyfileobj(body, out)
        return out.tell()


def _with_length(header: DeltaHeader, body: int) -> DeltaHeader:
    """Fill in the file's length, whose digits are a part of it themselves."""
    while header.frames_offset + body != header.length:
        header = header._replace(length=header.frames_offset + body)
    return header


def _patch_manifest(old: Path, new: Path) -> tuple[tuple[Segment, ...], list[bytes]]:
    with _mapped(old) as base, _mapped(new) as content:
        parts = list(_patch(content, base))
    return tuple(segment for segment, _ in parts), [packed for _, packed in parts]


def _patch(
    content: bytes | mmap, base: bytes | mmap
) -> Iterator[tuple[Segment, bytes]]:
    windows = Windows(base, len(content))
    for offset in range(0, len(content), SEGMENT):
        raw = content[offset : offset + SEGMENT]
        start, length = windows.choose(raw, offset)
        packed = pack_segment(raw, base[start : start + length], LEVEL)
        yield Segment(start, length, len(packed), len(raw)), packed


class _Part(NamedTuple):
    """A frame and its bytes."""

    frame: Frame
    kept: IO[bytes]

    def close(self) -> None:
        """Forget the bytes."""
        self.kept.close()


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
        patched = None
        if base is not None:
            patched = self._patched(whole, self._old.frames[base.digest])
        if patched is not None:
            return patched
        chunks = iter_chunks(self._new.packed(whole))
        return _Part(whole._replace(offset=0), spool(chunks, self._work))

    def _patched(self, whole: Frame, base: Frame) -> _Part | None:
        """Return the patch, or None as soon as it is no smaller than the whole."""
        room = whole.packed - _LINE
        if room <= 0:
            return None
        segments: list[Segment] = []
        with (
            in_turn(whole.size + base.size),
            self._new.hold(whole, self._work) as new,
            self._old.hold(base, self._work) as old,
        ):
            kept = spool(_patch_within(room, new, old, segments), self._work)
        frame = Frame(whole.digest, whole.size, base.digest, 0, tuple(segments))
        if frame.packed < room:
            return _Part(frame, kept)
        kept.close()
        return None


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
