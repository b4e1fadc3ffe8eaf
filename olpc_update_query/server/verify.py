"""Verifies a published build: every frame of every pack, down to the last byte."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from mmap import mmap
from pathlib import Path
from typing import NamedTuple

from olpc_update_query.errors import CorruptContent, Malformed
from olpc_update_query.model.delta import (
    MAX_HEADER,
    DeltaHeader,
    read_delta_index,
)
from olpc_update_query.model.manifest import Kind, ManifestReader
from olpc_update_query.model.pack import Frame, Segment, unpack_segment
from olpc_update_query.server.archive import Archive, digest_of, map_file, open_stretch
from olpc_update_query.server.packing import in_order


class Checked(NamedTuple):
    """What was found to be sound.

    Attributes:
        contents: How many contents of the full pack.
        deltas: Names of the delta packs.
        unproven: Names of the delta packs whose patches could not be proven, because
            the build that they start from is not here.
    """

    contents: int
    deltas: tuple[str, ...]
    unproven: tuple[str, ...]


def check_build(build: Path) -> Checked:
    """Verify a published build.

    1. The manifest is well-formed, and ``contents.zst`` holds the same.
    2. The index of the full pack belongs to it, and ``pack.index.zst`` holds the same.
    3. The pack has the contents of the manifest, no more and no fewer, and each is
       what its digest says.
    4. Each delta pack leads to this manifest, and brings every content that the
       build it starts from does not have.

    Args:
        build: Its directory. Builds that deltas start from are looked for beside it.

    Returns:
        What was verified.

    Raises:
        Malformed: A file does not follow its format.
        CorruptContent: A content is not what its digest says.
        OSError: A file is missing.
    """
    sizes = _read_manifest(build / "contents")
    for name in ("contents", "pack.index"):
        _check_copy(build / name)
    with Archive(build) as archive:
        if archive.contents != digest_of(build / "contents"):
            raise Malformed("pack.index", "it belongs to another manifest")
        _check_names(archive.frames, sizes)
        _prove(lambda frame: _drain(archive.unpack(frame)), archive.frames.values())
    deltas = sorted(build.glob("delta/*.pack"))
    proven = {path.stem: _check_delta(build, path, sizes) for path in deltas}
    unproven = tuple(name for name, is_proven in proven.items() if not is_proven)
    return Checked(len(sizes), tuple(proven), unproven)


def _read_manifest(path: Path) -> dict[bytes, int]:
    """Return the sizes of the contents by their digests."""
    with open(path, "rb") as stream:
        return {
            entry.digest: entry.size
            for entry in ManifestReader(stream)
            if entry.kind is Kind.FILE
        }


def _check_copy(path: Path) -> None:
    """Compare ``NAME.zst`` with ``NAME``."""
    digest = hashlib.sha256()
    with open(f"{path}.zst", "rb") as packed:
        for chunk in unpack_segment(packed, b"", path.stat().st_size):
            digest.update(chunk)
    _compare(f"{path.name}.zst", digest_of(path), digest.hexdigest())


def _compare(name: str, expected: str, found: str) -> None:
    if expected != found:
        raise CorruptContent(name, expected, found)


def _check_names(frames: Mapping[bytes, Frame], sizes: Mapping[bytes, int]) -> None:
    if {frame.digest: frame.size for frame in frames.values()} != sizes:
        raise Malformed("pack.index", "it lists other contents than the manifest")


def _prove(prove: Callable[[Frame], None], frames: Iterable[Frame]) -> None:
    for _ in in_order(prove, frames):
        pass


def _drain(chunks: Iterable[bytes]) -> None:
    for _ in chunks:
        pass


# --- deltas -------------------------------------------------------------------


def _check_delta(build: Path, path: Path, sizes: Mapping[bytes, int]) -> bool:
    """Verify a delta pack; return False where its patches cannot be proven."""
    old = build.parent / path.stem
    with open(path, "rb") as file:
        header = DeltaHeader.parse(file.readline(MAX_HEADER + 1))
        if header.new != digest_of(build / "contents"):
            raise Malformed(path.name, "it leads to another manifest")
        if header.length != os.fstat(file.fileno()).st_size:
            raise Malformed(path.name, "it is not as long as its header says")
        delta = _Delta(file.fileno(), header)
        frames = list(delta.frames())
        for frame in frames:
            if sizes.get(frame.digest) != frame.size:
                raise Malformed(path.name, "it brings a content of no file")
        if not _is(old, header):
            _prove(delta.prove_whole, frames)
            return False
        have = _read_manifest(old / "contents").keys()
        if {frame.digest for frame in frames} != sizes.keys() - have:
            raise Malformed(path.name, "it does not bring what is missing")
        delta.prove_manifest(old / "contents")
        with Archive(old, {frame.base for frame in frames if frame.base}) as bases:
            _prove(partial(delta.prove, bases), frames)
    return True


def _is(old: Path, header: DeltaHeader) -> bool:
    manifest = old / "contents"
    return manifest.is_file() and digest_of(manifest) == header.old


class _Delta:
    """An open delta pack."""

    def __init__(self, descriptor: int, header: DeltaHeader) -> None:
        self._descriptor, self._header = descriptor, header

    def frames(self) -> Iterator[Frame]:
        """Return the frames of the index."""
        header = self._header
        whole = Segment(0, 0, header.index_packed, header.index_size)
        index = b"".join(self._expand(header.index_offset, [whole], b""))
        return read_delta_index(index, header.frames_offset, header.length)

    def _expand(
        self, offset: int, segments: Iterable[Segment], base: bytes | mmap
    ) -> Iterator[bytes]:
        for start, length, packed, size in segments:
            stream = open_stretch(self._descriptor, offset, packed)
            yield from unpack_segment(stream, base[start : start + length], size)
            offset += packed

    def prove_manifest(self, old: Path) -> None:
        """Make the new manifest of the old one."""
        header = self._header
        with open(old, "rb") as file, map_file(file) as base:
            chunks = self._expand(header.manifest_offset, header.manifest, base)
            _compare("delta's manifest", header.new, _hash(chunks))

    def prove_whole(self, frame: Frame) -> None:
        """Expand a content that is no patch."""
        if frame.base is None:
            chunks = self._expand(frame.offset, frame.segments, b"")
            _compare(f"delta at {frame.offset}", frame.digest.hex(), _hash(chunks))

    def prove(self, bases: Archive, frame: Frame) -> None:
        """Expand any content."""
        if frame.base is None:
            self.prove_whole(frame)
            return
        if frame.base not in bases.frames:
            raise Malformed("delta", "a base is not in the build it starts from")
        with bases.hold(bases.frames[frame.base]) as base:
            chunks = self._expand(frame.offset, frame.segments, base)
            _compare(f"delta at {frame.offset}", frame.digest.hex(), _hash(chunks))


def _hash(chunks: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()
