"""Compressors that make the same bytes again, and what they have made, expanded.

zlib and liblzma come with Python. Of zstd it is the system's own library that counts,
not the one in the `zstandard` wheel: an image's initrd was made by the `zstd` program
of the same distribution, and only the same release makes the same bytes. What that
program writes does not depend on the number of its threads: it cuts the input into
jobs, each of which sees a little of the one before. They are made here one at a time,
so one thread and a window of memory suffice.
"""

import contextlib
import ctypes
import functools
import itertools
import lzma
import mmap
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

from olpc_update_query.errors import CorruptContent
from olpc_update_query.model.inside import MAX_MEMORY, Kind, Member, Part
from olpc_update_query.model.pack import unpack_segment
from olpc_update_query.system.closing import Closing

Chunk = bytes | memoryview

MAX_HEADER: Final = 18
"""The most octets before the first block of a zstd frame."""

_CHUNK: Final = 128 << 10
_MAX_ZSTD_WINDOW: Final = 23
_XZ_PRESETS: Final = frozenset(
    preset | extreme for preset in range(10) for extreme in (0, lzma.PRESET_EXTREME)
)
_MAX_XZ_DICTIONARY: Final = 8 << 20


class Pieces:
    """Pieces of bytes, to be had in other pieces."""

    def __init__(self, chunks: Iterable[Chunk]) -> None:
        self._chunks, self._rest = iter(chunks), memoryview(b"")

    def read(self, most: int) -> memoryview:
        """Return at least one byte and at most ``most``; nothing at the end."""
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                break
            self._rest = memoryview(chunk)
        piece, self._rest = self._rest[:most], self._rest[most:]
        return piece

    def take(self, size: int) -> Iterator[memoryview]:
        """Yield the next bytes.

        Raises:
            CorruptContent: There are fewer.
        """
        while size:
            piece = self.read(size)
            if not piece:
                raise CorruptContent("inside", f"{size} bytes more", "the end")
            size -= len(piece)
            yield piece


def can_make(part: Part) -> bool:
    """Tell whether this machine can try to make a part again, within its memory."""
    match part.kind:
        case Kind.RAW:
            return True
        case Kind.DEFLATE:
            level, memory = part.settings
            return 1 <= level <= 9 and 1 <= memory <= 9
        case Kind.XZ:
            return _can_make_xz(part)
        case Kind.ZSTD:
            return _can_make_zstd(part)


def make(part: Part, chunks: Iterable[Chunk]) -> Iterator[Chunk]:
    """Make a part of a content from what is inside.

    Args:
        part: How.
        chunks: The inside, ``part.size`` bytes in all.

    Raises:
        CorruptContent: This machine has not got the compressor, or not the memory.
    """
    if not can_make(part):
        raise CorruptContent(part.kind, "a compressor with these settings", "none")
    match part.kind:
        case Kind.RAW:
            return iter(chunks)
        case Kind.DEFLATE:
            level, memory = part.settings
            return _drive(zlib.compressobj(level, zlib.DEFLATED, -15, memory), chunks)
        case Kind.XZ:
            return _drive(_xz(part), chunks)
        case Kind.ZSTD:
            return _zstd(part, chunks)


def _drive(compressor: Any, chunks: Iterable[Chunk]) -> Iterator[Chunk]:
    for chunk in chunks:
        yield compressor.compress(chunk)
    yield compressor.flush()


def expand(member: Member, packed: bytes) -> bytes:
    """Return what is in a compressed stretch, ``member.size`` bytes.

    Raises:
        CorruptContent: It is something else.
    """
    try:
        found = _EXPANDERS[member.kind](packed, member.size)
    except (zlib.error, lzma.LZMAError, CorruptContent) as error:
        raise CorruptContent("base", f"{member.kind} data", str(error)) from None
    if len(found) != member.size:
        raise CorruptContent("base", f"{member.size} bytes inside", f"{len(found)}")
    return found


def _expand_zstd(packed: bytes, size: int) -> bytes:
    return b"".join(unpack_segment(packed, b"", size))


def _expand_xz(packed: bytes, size: int) -> bytes:
    return lzma.LZMADecompressor(memlimit=MAX_MEMORY).decompress(packed, size)


_EXPANDERS: Final[Mapping[Kind, Callable[[bytes, int], bytes]]] = {
    Kind.DEFLATE: lambda packed, size: zlib.decompressobj(-15).decompress(packed, size),
    Kind.XZ: _expand_xz,
    Kind.ZSTD: _expand_zstd,
}


# --- xz -------------------------------------------------------------------------


def _can_make_xz(part: Part) -> bool:
    preset, check, dictionary, x86 = part.settings
    if preset not in _XZ_PRESETS or x86 > 1 or not lzma.is_check_supported(check):
        return False
    if not 4096 <= dictionary <= _MAX_XZ_DICTIONARY:
        return False
    # bt4: the input, a hash table, and two numbers of four octets for each octet.
    used = min(dictionary, part.size)
    return 9 * used + 4 * (dictionary // 2) + (1 << 20) <= MAX_MEMORY


def _xz(part: Part) -> lzma.LZMACompressor:
    preset, check, dictionary, x86 = part.settings
    last = {"id": lzma.FILTER_LZMA2, "preset": preset, "dict_size": dictionary}
    filters = [{"id": lzma.FILTER_X86}, last] if x86 else [last]
    return lzma.LZMACompressor(lzma.FORMAT_XZ, check, filters=filters)


# --- zstd -----------------------------------------------------------------------

_CONTINUE, _END = 0, 2
_RESET_SESSION: Final = 1
_BEHIND: Final = 1 << 20  # kept behind the window, and given back at once
_CHECKSUM_FLAG, _STABLE_INPUT = 201, 1006
_PARAMETERS: Final = (101, 103, 102, 104, 105, 106, 107)  # in `_NAMES`' order


class _Buffer(ctypes.Structure):
    _fields_ = (
        ("address", ctypes.c_void_p),
        ("size", ctypes.c_size_t),
        ("position", ctypes.c_size_t),
    )


_NAMES: Final = (
    *("window_log", "chain_log", "hash_log", "search_log"),
    *("min_match", "target_length", "strategy"),
)


class _Parameters(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint) for name in _NAMES)


@functools.cache
def _library() -> Any:
    """Return the system's libzstd; None when there is none that has what it takes."""
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL("libzstd.so.1")
        size, pointer, number = ctypes.c_size_t, ctypes.c_void_p, ctypes.c_int
        for name, result, arguments in (
            ("ZSTD_versionNumber", ctypes.c_uint, []),
            ("ZSTD_createCCtx", pointer, []),
            ("ZSTD_freeCCtx", size, [pointer]),
            ("ZSTD_isError", ctypes.c_uint, [size]),
            ("ZSTD_CCtx_reset", size, [pointer, number]),
            ("ZSTD_CCtx_setParameter", size, [pointer, number, number]),
            ("ZSTD_CCtx_setPledgedSrcSize", size, [pointer, ctypes.c_ulonglong]),
            ("ZSTD_CCtx_refPrefix", size, [pointer, pointer, size]),
            ("ZSTD_compressStream2", size, [pointer, pointer, pointer, number]),
            ("ZSTD_getCParams", _Parameters, [number, ctypes.c_ulonglong, size]),
            ("ZSTD_estimateCCtxSize_usingCParams", size, [_Parameters]),
        ):
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
        return library
    return None


def prepare() -> None:
    """Load what `make` may need, while that is still allowed."""
    _library()


def zstd_version() -> int:
    """Return the number of the system's libzstd, 10504 for 1.5.4; 0 without one."""
    library = _library()
    return int(library.ZSTD_versionNumber()) if library else 0


def _can_make_zstd(part: Part) -> bool:
    level, known, version = part.settings
    if version != zstd_version() or not version or not 1 <= level <= 22 or known > 1:
        return False
    parameters = _parameters(part)
    if parameters.window_log > _MAX_ZSTD_WINDOW:
        return False
    tables = int(_library().ZSTD_estimateCCtxSize_usingCParams(parameters))
    window = 1 << int(parameters.window_log)
    return tables + window + _BEHIND <= MAX_MEMORY


def _parameters(part: Part) -> Any:
    level, known, _ = part.settings
    return _library().ZSTD_getCParams(level, part.size if known else 0, 0)


def _job_sizes(parameters: Any) -> tuple[int, int]:
    """Return length of a job and of what it sees of the one before it."""
    strategy, window_log = parameters.strategy, parameters.window_log
    less = {9: 0, 8: 1, 7: 1, 6: 2, 5: 2}.get(strategy, 3)
    return 1 << max(20, window_log + 2), 1 << (window_log - less)


def _zstd(part: Part, chunks: Iterable[Chunk]) -> Iterator[Chunk]:
    """Yield the blocks of a frame; its header and its checksum are other parts."""
    with _Zstd(part) as compressor:
        left, is_first = part.size, True
        source = Pieces(chunks)
        while left or is_first:
            length = min(left, compressor.job)
            left -= length
            blocks = compressor.compress(source, length, is_only=is_first and not left)
            yield from _blocks(blocks, is_last=not left)
            is_first = False


class _Zstd(Closing):
    """The system's zstd, for one part."""

    def __init__(self, part: Part) -> None:
        self._library, parameters = _library(), _parameters(part)
        self._pledge = part.size if part.settings[1] else None
        self.job, self._overlap = _job_sizes(parameters)
        self._seen = self._forgotten = 0
        self._context = self._library.ZSTD_createCCtx()
        for number, name in zip(_PARAMETERS, _NAMES, strict=True):
            self._set(number, getattr(parameters, name))
        self._set(_CHECKSUM_FLAG, 0)
        self._set(_STABLE_INPUT, 1)
        self._window = 1 << parameters.window_log
        room = min(part.size, self.job + self._overlap) or 1
        self._memory = mmap.mmap(-1, room)
        self._start = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        self._out = ctypes.create_string_buffer(_CHUNK)

    def close(self) -> None:
        """Give its memory back."""
        self._library.ZSTD_freeCCtx(self._context)

    def _set(self, number: int, value: int) -> None:
        self._call(self._library.ZSTD_CCtx_setParameter, number, value)

    def _call(self, function: Callable[..., int], *arguments: object) -> int:
        result = function(self._context, *arguments)
        if self._library.ZSTD_isError(result):
            raise CorruptContent("zstd", "a compressor", "an error")
        return result

    def compress(
        self, source: Pieces, length: int, *, is_only: bool
    ) -> Iterator[bytes]:
        """Yield the frame of one job.

        Args:
            source: Where its bytes come from.
            length: How many.
            is_only: Whether it is the only one.
        """
        self._call(self._library.ZSTD_CCtx_reset, _RESET_SESSION)
        if self._seen:
            prefix = self._library.ZSTD_CCtx_refPrefix
            self._call(prefix, self._start, self._seen)
        elif is_only and self._pledge is not None:
            self._call(self._library.ZSTD_CCtx_setPledgedSrcSize, self._pledge)
        given = _Buffer(self._start + self._seen, 0, 0)
        while True:
            self._fill(source, given, length)
            is_end = given.size == length
            yield from self._flush(given, is_end=is_end)
            if is_end:
                break
        self._slide(self._seen + length)

    def _fill(self, source: Pieces, given: _Buffer, length: int) -> None:
        """Add a piece to what zstd sees: it must all stay in one place."""
        if given.size < length:
            piece = source.read(min(_CHUNK, length - given.size))
            if not piece:
                raise CorruptContent("inside", f"{length} bytes", f"{given.size}")
            end = self._seen + given.size
            self._memory[end : end + len(piece)] = piece
            given.size += len(piece)
            self._forget(end)

    def _forget(self, end: int) -> None:
        """Give memory back that lies so far behind that zstd reads it no more."""
        until = (end - self._window - _BEHIND) // mmap.PAGESIZE * mmap.PAGESIZE
        if until - self._forgotten >= _BEHIND:
            length = until - self._forgotten
            self._memory.madvise(mmap.MADV_DONTNEED, self._forgotten, length)
            self._forgotten = until

    def _flush(self, given: _Buffer, *, is_end: bool) -> Iterator[bytes]:
        how = _END if is_end else _CONTINUE
        while True:
            out = _Buffer(ctypes.addressof(self._out), _CHUNK, 0)
            left = self._call(
                self._library.ZSTD_compressStream2,
                *(ctypes.byref(out), ctypes.byref(given), how),
            )
            if out.position:
                yield self._out.raw[: out.position]
            if left == 0 if is_end else out.position < _CHUNK:
                return

    def _slide(self, end: int) -> None:
        """Keep what the next job sees of this one."""
        self._forgotten, self._seen = 0, min(self._overlap, end)
        self._memory.move(0, end - self._seen, self._seen)


def _blocks(frame: Iterable[bytes], *, is_last: bool) -> Iterator[bytes]:
    """Take the header off a frame, and the mark off its last block if others follow.

    RFC 8878: a block begins with three octets, of which the lowest bit marks the last
    one and the next two its kind; the rest is its length, but 1 where it is a run.
    """
    buffer = bytearray()
    chunks = iter(frame)
    while len(buffer) <= MAX_HEADER and (chunk := next(chunks, b"")):
        buffer += chunk
    del buffer[: header_length(buffer)]
    for chunk in itertools.chain([b""], chunks):
        buffer += chunk
        while (block := _complete_block(buffer)) is not None:
            if not is_last:
                block[0] &= 0xFE
            yield bytes(block)


def _complete_block(buffer: bytearray) -> bytearray | None:
    size = 3 + packed_block(buffer) if len(buffer) >= 3 else 0
    if not 3 <= size <= len(buffer):
        return None
    block = buffer[:size]
    del buffer[:size]
    return block


def packed_block(head: bytes | bytearray | memoryview) -> int:
    """Return the length of what follows the three octets at the head of a block."""
    number = int.from_bytes(head[:3], "little")
    return 1 if number >> 1 & 3 == 1 else number >> 3


def header_length(frame: bytes | bytearray | memoryview) -> int:
    """Return the length of a zstd frame's header (RFC 8878, 3.1.1.1)."""
    descriptor = frame[4]
    is_single = descriptor >> 5 & 1
    size_field = (is_single, 2, 4, 8)[descriptor >> 6]
    return 5 + (1 - is_single) + (0, 1, 2, 4)[descriptor & 3] + size_field
