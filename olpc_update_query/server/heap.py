"""How glibc's malloc deals with memory; another C library does as it likes."""

import contextlib
import ctypes
from typing import Final

_MMAP_THRESHOLD: Final = -3  # malloc.h, M_MMAP_THRESHOLD
_ARENA_MAX: Final = -8  # malloc.h, M_ARENA_MAX


def share_one_heap() -> None:
    """Give the threads one heap: of their own ones each grows to what a page needs."""
    _mallopt(_ARENA_MAX, 1)


def give_back_large_blocks() -> None:
    """Let freed ones go back to the system: glibc learns to keep them otherwise."""
    _mallopt(_MMAP_THRESHOLD, 2 << 20)


def _mallopt(parameter: int, value: int) -> None:
    with contextlib.suppress(AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(parameter, value)
