"""Verifies a published build: every frame of every pack, down to the last byte."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from mmap import mmap
from pathlib import Path
from typing import NamedTuple

from olpc_update_query.errors import CorruptContent, Malformed
from olpc_update_query.model.delta import DeltaHeader
from olpc_update_query.model.manifest import Kind, ManifestReader
from olpc_update_query.model.pack import Frame, unpack_segment
from olpc_update_query.server.archive import (
    Archive,
    DeltaArchive,
    digest_of,
    map_file,
)
from olpc_update_query.server.packing import in_order
from olpc_update_query.system.assembly import expand_base, put_together
from olpc_update_query.system.compressors import Chunk, can_make


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
    4. What is made of other contents of the build comes out right.
    5. Each delta pack leads to this manifest, and brings every content that the
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
    _check_inside(build, sizes)
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


def check_delta(build: Path, path: Path) -> bool:
    """Verify one delta pack of a build.

    Returns:
        Whether it could be proven: the build that it starts from is here.

    Raises:
        Malformed: It does not follow its format, or leads elsewhere.
        CorruptContent: A content is not what its digest says.
    """
    return _check_delta(build, path, _read_manifest(build / "contents"))


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
    with Archive(build) as new, DeltaArchive(path) as archive:
        delta = _Delta(archive, new, sizes)
        frames = delta.check_index(digest_of(build / "contents"))
        if not _is(old, archive.header):
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


def _check_inside(build: Path, sizes: Mapping[bytes, int]) -> None:
    """Verify the contents that are made of others of the same build."""
    path = build / "inside.pack"
    if not path.is_file():
        return
    with Archive(build) as new, DeltaArchive(path) as archive:
        delta = _Delta(archive, new, sizes)
        frames = delta.check_index(digest_of(build / "contents"))
        _prove(partial(delta.prove, new), frames)


class _Delta:
    """An open delta pack of a build."""

    def __init__(
        self, archive: DeltaArchive, new: Archive, sizes: Mapping[bytes, int]
    ) -> None:
        self._archive, self._new, self._sizes = archive, new, sizes
        self._name = archive.path.name

    def check_index(self, contents: str) -> list[Frame]:
        """Return the frames, if they can be of the build.

        Args:
            contents: Digest of the build's manifest.
        """
        if self._archive.header.new != contents:
            raise Malformed(self._name, "it leads to another manifest")
        frames = list(self._archive.frames())
        for frame in frames:
            if self._sizes.get(frame.digest) != frame.size:
                raise Malformed(self._name, "it brings a content of no file")
        return frames

    def prove_manifest(self, old: Path) -> None:
        """Make the new manifest of the old one."""
        header = self._archive.header
        with open(old, "rb") as file, map_file(file) as base:
            offset = header.manifest_offset
            chunks = self._archive.expand(offset, header.manifest, base)
            _compare("delta's manifest", header.new, _hash(chunks))

    def prove_whole(self, frame: Frame) -> None:
        """Expand a content that is no patch."""
        if frame.base is None and frame.inside is None:
            self._compare(frame, self._expand(frame, b""))

    def prove(self, bases: Archive, frame: Frame) -> None:
        """Expand any content that this machine can make."""
        if frame.inside is not None and not all(map(can_make, frame.inside.parts)):
            return
        if frame.base is None:
            self._compare(frame, self._expand(frame, b""))
            return
        if frame.base not in bases.frames:
            raise Malformed("delta", "a base is not in the build it starts from")
        with bases.hold(bases.frames[frame.base]) as base:
            self._compare(frame, self._expand(frame, base))

    def _expand(self, frame: Frame, base: bytes | mmap) -> Iterable[Chunk]:
        if frame.inside is None:
            return self._archive.expand(frame.offset, frame.segments, base)
        if frame.inside.members:
            read = partial(_read, base)
            base = expand_base(frame.inside.members, read)
        segments = self._archive.expand(frame.offset, frame.segments, base)
        length = sum(segment.size for segment in frame.segments)
        return put_together(frame.inside, segments, length, self._copied)

    def _copied(self, digest: bytes) -> Iterator[Chunk]:
        if digest not in self._new.frames:
            raise Malformed(self._name, "a content that it copies is not in the build")
        return self._new.unpack(self._new.frames[digest])

    def _compare(self, frame: Frame, chunks: Iterable[Chunk]) -> None:
        name = f"{self._name} at {frame.offset}"
        _compare(name, frame.digest.hex(), _hash(chunks))


def _read(base: bytes | mmap, offset: int, length: int) -> bytes:
    return base[offset : offset + length]


def _hash(chunks: Iterable[Chunk]) -> str:
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()
