"""Whole contents as zstd frames, which full packs are made of."""

import threading
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Final

from olpc_update_query.errors import CorruptContent
from olpc_update_query.model.pack import WINDOW_LOG, unpack_segment

if TYPE_CHECKING:
    import zstandard

PACK_LEVEL = 9
"""zstd's level for full packs, with our parameters: see ``docs/adr/0052``."""

_DFAST, _GREEDY, _LAZY = 2, 3, 4  # zstandard.STRATEGY_DFAST, which is imported late
_TUNED: Final[dict[int, dict[str, int]]] = {  # by the largest size
    16 << 10: {"strategy": _DFAST, "hash_log": 14, "chain_log": 13},
    256 << 10: {"strategy": _DFAST, "hash_log": 16, "chain_log": 15},
    1 << 20: {"strategy": _GREEDY, "hash_log": 17, "search_log": 3},
    8 << 20: {"strategy": _LAZY, "hash_log": 19, "search_log": 3, "min_match": 5},
    1 << 40: {
        "strategy": _GREEDY,
        "hash_log": 20,
        "search_log": 4,
        "min_match": 5,
        "window_log": 22,
    },
}
_JOBS: Final = {"threads": -1, "job_size": 8 << 20, "overlap_log": 6}


class _Kept(threading.local):
    """zstd's memory: each thread keeps its own for the next content."""

    def __init__(self) -> None:
        self._packers: dict[tuple[int, int], zstandard.ZstdCompressor] = {}

    def packer(self, level: int, largest: int) -> "zstandard.ZstdCompressor":
        """Return a compressor for contents of up to a size."""
        import zstandard

        packer = self._packers.get((level, largest))
        if packer is None:
            parameters = _parameters(level, largest)
            packer = zstandard.ZstdCompressor(compression_params=parameters)
            self._packers[level, largest] = packer
        return packer

    @cached_property
    def unpacker(self) -> "zstandard.ZstdDecompressor":
        import zstandard

        return zstandard.ZstdDecompressor()


_kept = _Kept()


def pack_content(chunks: Iterable[bytes], size: int, level: int) -> Iterator[bytes]:
    """Compress a whole content of any size as one frame.

    Args:
        chunks: The content in pieces.
        size: Its length in bytes.
        level: zstd's level.

    Yields:
        The frame in pieces.

    Raises:
        CorruptContent: The pieces are not of that length.
    """
    import zstandard

    compressor = zstandard.ZstdCompressor(compression_params=_parameters(level, size))
    packer = compressor.compressobj(size=size)
    try:
        for chunk in chunks:
            yield packer.compress(chunk)
        yield packer.flush()
    except zstandard.ZstdError:
        raise CorruptContent("content", f"{size} bytes", "another length") from None


def pack_whole(content: bytes, level: int) -> bytes:
    """Compress a content that is held in memory as one frame.

    Args:
        content: The content.
        level: zstd's level.
    """
    largest = next(each for each in _TUNED if len(content) <= each)
    return _kept.packer(level, largest).compress(content)


def _parameters(level: int, size: int) -> "zstandard.ZstdCompressionParameters":
    import zstandard

    from_level = zstandard.ZstdCompressionParameters.from_level
    window_log = from_level(level, source_size=size, dict_size=0).window_log
    ours = {"window_log": min(window_log, WINDOW_LOG)}
    if level == PACK_LEVEL:
        ours |= {"min_match": 4}
        ours |= next(tuned for most, tuned in _TUNED.items() if size <= most)
        ours |= _JOBS if size > _JOBS["job_size"] else {}
    return from_level(level, source_size=size, dict_size=0, **ours)


def unpack_whole(packed: bytes, size: int) -> bytes:
    """Expand the frame of a content that can be held in memory.

    Args:
        packed: The frame.
        size: Length of what is inside.

    Raises:
        CorruptContent: See `unpack_segment`.
    """
    import zstandard

    try:
        found = zstandard.get_frame_parameters(packed)
        if 0 < found.content_size == size and found.window_size <= 1 << WINDOW_LOG:
            return _kept.unpacker.decompress(packed, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise CorruptContent("packed content", "a zstd frame", str(error)) from None
    return b"".join(unpack_segment(packed, b"", size))
