"""Takes contents apart that have compressed data in them, when a build is published.

What the usual tools make is recognized: gzip, xz and zstd files, Linux images
(bzImage), and initrds, also behind an archive that is not compressed. Then the
settings are looked for with which the same bytes come out again. Where none are found,
or a laptop would need too much memory, the content stays as it is.
"""

import contextlib
import hashlib
import itertools
import lzma
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from mmap import mmap
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from olpc_update_query.model.inside import MAX_COPIES, Copy, Inside, Kind, Member, Part
from olpc_update_query.server.archive import let_go, map_file
from olpc_update_query.system.compressors import (
    can_make,
    header_length,
    make,
    packed_block,
    zstd_version,
)

Bytes = bytes | mmap

_CHUNK: Final = 256 << 10
_MAX_SIZE: Final = 512 << 20  # of what is inside
_IN_MEMORY: Final = 8 << 20
_MAX_GAPS: Final = 32 << 20  # held in memory
_MIN_COPY: Final = 512  # bytes; a smaller content costs little more than its digest
_GZIP, _XZ, _ZSTD = b"\x1f\x8b\x08", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"
_CPIO = b"070701"
_XZ_X86, _XZ_LZMA2 = 0x04, 0x21
_DEFLATE: Final = tuple(itertools.product((9, 6, *range(1, 6), 7, 8), (9, 8)))
_ZSTD_LEVELS: Final = (9, 3, 19, 15, 1, 2, *range(4, 9), *range(10, 15), 16, 17, 18)
_XZ_PRESETS: Final = tuple(
    preset | extreme
    for preset in (6, 9, *range(6), 7, 8)
    for extreme in (0, lzma.PRESET_EXTREME)
)


class Stretch(NamedTuple):
    """The compressed stretch of a content.

    Attributes:
        kind: How it is compressed.
        start: Where it begins for whoever expands it,
        stop: and ends.
        begin: Where it begins for whoever makes it: a zstd frame without its header,
        end: and ends: a zstd frame without its checksum.
    """

    kind: Kind
    start: int
    stop: int
    begin: int
    end: int


class File(NamedTuple):
    """A file of an archive that is in a content.

    Attributes:
        begin: Where it begins in what is in the content,
        end: and ends.
        digest: Its SHA-256, 32 raw bytes.
    """

    begin: int
    end: int
    digest: bytes


class Apart(NamedTuple):
    """A content taken apart.

    Attributes:
        content: The content.
        stretch: What of it is compressed.
        inner: What is in that.
    """

    content: Bytes
    stretch: Stretch
    inner: Bytes

    def members(self) -> tuple[Member, ...]:
        """Say how a laptop expands it, as a base."""
        kind, start, stop, _, _ = self.stretch
        return (Member(kind, start, stop - start, len(self.inner)),)

    @property
    def flat_size(self) -> int:
        """Length of what `flat` returns."""
        packed = self.stretch.stop - self.stretch.start
        return len(self.content) - packed + len(self.inner)

    def flat(self) -> bytes:
        """Return what a laptop then has."""
        before, after = (
            self.content[: self.stretch.start],
            self.content[self.stretch.stop :],
        )
        return b"".join((before, self.inner, after))

    def files(self) -> Iterator[File]:
        """Find the files of an archive that is in it, but for the smallest."""
        for begin, end in cpio_files(self.inner):
            if end - begin < _MIN_COPY:
                continue
            with memoryview(self.inner) as view, view[begin:end] as file:
                yield File(begin, end, hashlib.sha256(file).digest())
            let_go(self.inner)

    def settings(self) -> Part | None:
        """Find out with which settings the same bytes come out again, if with any."""
        kind, start, _, begin, end = self.stretch
        for settings in _CANDIDATES[kind](self.content, start):
            part = Part(kind, len(self.inner), settings)
            if can_make(part) and self._is_made_by(part, begin, end):
                return part
        return None

    def describe(
        self, copied: Iterable[File] = (), settings: Part | None = None
    ) -> tuple[Inside, bytes] | None:
        """Say how the content can be made again; None when it cannot.

        Args:
            copied: Files in it that the laptop has by then.
            settings: The settings, where they are known.

        Returns:
            The description, and the bytes for its segments.
        """
        _, _, _, begin, end = self.stretch
        rest = len(self.content) - end
        copies, between = self._copies(copied)
        if begin + rest + sum(stop - start for start, stop in between) > _MAX_GAPS:
            return None
        part = settings or self.settings()
        if part is None:
            return None
        parts = (Part(Kind.RAW, begin), part, Part(Kind.RAW, rest))
        gaps = [self.inner[start:stop] for start, stop in between]
        gaps = [self.content[:begin], *gaps, self.content[end:]]
        description = Inside(tuple(part for part in parts if part.size), (), copies)
        return description, b"".join(gaps)

    def _is_made_by(self, part: Part, place: int, end: int) -> bool:
        """Make it, and stop at the first difference."""
        for chunk in make(part, _pieces(self.inner)):
            if self.content[place : place + len(chunk)] != chunk:
                return False
            place += len(chunk)
            let_go(self.content)
        return place == end

    def _copies(
        self, files: Iterable[File]
    ) -> tuple[tuple[Copy, ...], list[tuple[int, int]]]:
        """Return what is copied, and where what lies between is."""
        copies: list[Copy] = []
        between: list[tuple[int, int]] = []
        place, skip = 0, self.stretch.begin
        for begin, end, digest in itertools.islice(files, MAX_COPIES):
            between.append((place, begin))
            copies.append(Copy(skip + begin - place, digest))
            place, skip = end, 0
        return tuple(copies), [*between, (place, len(self.inner))]


@contextlib.contextmanager
def taken_apart(content: Bytes, work: Path) -> Iterator[Apart | None]:
    """Take a content apart; None when nothing in it is known to be compressed.

    Args:
        content: The content.
        work: Where a file is made for what is large.
    """
    found = _locate(content)
    if found is None:
        yield None
        return
    kind, start = found
    with tempfile.SpooledTemporaryFile(_IN_MEMORY, dir=str(work)) as out:
        stretch = _expand(content, kind, start, out)
        size = out.tell()
        if stretch is None or not size:
            yield None
        elif size <= _IN_MEMORY:
            out.seek(0)
            yield Apart(content, stretch, out.read())
        else:
            out.flush()
            with map_file(out) as inner:
                yield Apart(content, stretch, inner)


def _locate(content: Bytes) -> tuple[Kind, int] | None:
    """Return what is compressed, and where it begins."""
    start = 0
    if content[0x202:0x206] == b"HdrS":  # Documentation/x86/boot.rst
        setup, offset = content[0x1F1] or 4, content[0x248:0x24C]
        start = (setup + 1) * 512 + int.from_bytes(offset, "little")
    elif content[: len(_CPIO)] == _CPIO:
        start = _after_cpio(content)
    head = content[start : start + 6]
    for magic, kind in ((_GZIP, Kind.DEFLATE), (_XZ, Kind.XZ), (_ZSTD, Kind.ZSTD)):
        if head.startswith(magic):
            return kind, start
    return None


def _after_cpio(content: Bytes) -> int:
    place = 0
    for _, end in cpio_files(content):
        place = end
    while place < len(content) and content[place] == 0:
        place += 1
    return place


def cpio_files(archive: Bytes) -> Iterator[tuple[int, int]]:
    """Yield where the content of each file of a cpio archive begins and ends.

    The archive has the format "newc": headers of 110 octets with numbers in hex, and
    zeros up to multiples of four octets.
    """
    place = 0
    while archive[place : place + len(_CPIO)] == _CPIO:
        header = archive[place : place + 110]
        try:
            size, name = int(header[54:62], 16), int(header[94:102], 16)
        except ValueError:
            return
        begin = _up(place + 110 + name)
        if begin + size > len(archive):
            return
        yield begin, begin + size
        place = _up(begin + size)


def _up(number: int) -> int:
    return -(-number // 4) * 4


# --- expanding ------------------------------------------------------------------


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, /) -> bytes: ...


class _Out(Protocol):
    def write(self, data: bytes, /) -> int: ...


def _expand(content: Bytes, kind: Kind, start: int, out: _Out) -> Stretch | None:
    """Write out what is inside, and return where it was."""
    import zstandard

    begin, decompressor = start, _decompressor(kind)
    try:
        if kind is Kind.DEFLATE:
            begin = start = _after_gzip_header(content, start)
        stop = _drain(decompressor, content, start, out)
    except (zlib.error, lzma.LZMAError, zstandard.ZstdError, IndexError):
        return None
    if stop is None:
        return None
    end = stop
    if kind is Kind.ZSTD:
        begin, end = _blocks(content, start)
    return Stretch(kind, start, stop, begin, end)


def _decompressor(kind: Kind) -> _Decompressor:
    import zstandard

    match kind:
        case Kind.DEFLATE:
            return zlib.decompressobj(-15)
        case Kind.XZ:
            return lzma.LZMADecompressor(lzma.FORMAT_XZ)
        case _:
            return zstandard.ZstdDecompressor(max_window_size=1 << 27).decompressobj()


def _drain(
    decompressor: _Decompressor, content: Bytes, place: int, out: _Out
) -> int | None:
    """Expand one stream and return where it ends; None when it does not."""
    size = 0
    while not decompressor.eof:
        piece = content[place : place + _CHUNK]
        if not piece or size > _MAX_SIZE:
            return None
        place += len(piece)
        size += out.write(decompressor.decompress(piece))
        let_go(content)
    return place - len(decompressor.unused_data)


def _after_gzip_header(content: Bytes, start: int) -> int:
    """Return where the deflate stream begins (RFC 1952, 2.3)."""
    flags, place = content[start + 3], start + 10
    if flags & 4:
        place += 2 + int.from_bytes(content[place : place + 2], "little")
    for flag in (8, 16):
        if flags & flag:
            place = content.find(b"\0", place) + 1
    return place + (2 if flags & 2 else 0)


def _blocks(content: Bytes, start: int) -> tuple[int, int]:
    """Return where the blocks of a zstd frame begin and end."""
    begin = end = start + header_length(content[start : start + 18])
    is_last = 0
    while not is_last:
        head = content[end : end + 3]
        is_last = head[0] & 1
        end += 3 + packed_block(head)
    return begin, end


# --- settings -------------------------------------------------------------------


def _deflate_settings(_content: Bytes, _start: int) -> Iterable[tuple[int, ...]]:
    return _DEFLATE


def _zstd_settings(content: Bytes, start: int) -> Iterable[tuple[int, ...]]:
    """Return what the frame's header leaves open: the level."""
    descriptor, version = content[start + 4], zstd_version()
    is_known = int(descriptor >> 6 != 0 or descriptor >> 5 & 1 != 0)
    return ((level, is_known, version) for level in _ZSTD_LEVELS)


def _xz_settings(content: Bytes, start: int) -> Iterable[tuple[int, ...]]:
    """Return what the first block's header leaves open (xz-file-format, 3.1)."""
    check, place = content[start + 7], start + 14
    flags = content[start + 13]
    x86 = flags & 3 == 1 and content[place] == _XZ_X86
    if x86:
        place += 2
    if flags & 0xFC or content[place] != _XZ_LZMA2:
        return
    bits = content[place + 2]
    dictionary = (2 | bits & 1) << (bits // 2 + 11)
    for preset in _XZ_PRESETS:
        yield preset, check, dictionary, int(x86)


_CANDIDATES: Final = {
    Kind.DEFLATE: _deflate_settings,
    Kind.XZ: _xz_settings,
    Kind.ZSTD: _zstd_settings,
}


def _pieces(content: Bytes) -> Iterator[bytes]:
    for start in range(0, len(content), _CHUNK):
        yield content[start : start + _CHUNK]
        let_go(content)
