"""Where an index says that frames begin: a pack that is laid out otherwise shows it.

Two mirrors may have packed one build each, and then the index of one fits the pack of
the other in nothing but perhaps its length. The first byte that comes is the beginning
of a frame, and that tells which content is inside, as good as certainly, by its size.
"""

from array import array
from bisect import bisect_left
from typing import Final

from olpc_update_query.model.pack import Frame

_HEAD: Final = 18
"""The most bytes of the head of a zstd frame (RFC 8878, 3.1.1)."""


class Landmarks:
    """The beginnings of frames, for 16 bytes each."""

    def __init__(self) -> None:
        self._offsets, self._sizes = array("Q"), array("Q")

    def add(self, frame: Frame) -> None:
        """Note a frame; they come in the order of their offsets."""
        self._offsets.append(frame.offset)
        self._sizes.append(frame.size)

    def contradict(self, at: int, data: bytes) -> bool:
        """Tell whether bytes of a pack cannot be what the index says.

        Args:
            at: Offset of the first.
            data: The bytes.
        """
        last = at + len(data) - _HEAD
        place = bisect_left(self._offsets, at)
        while place < len(self._offsets) and self._offsets[place] <= last:
            start = self._offsets[place] - at
            if not _holds(data[start : start + _HEAD], self._sizes[place]):
                return True
            place += 1
        return False


def _holds(head: bytes, size: int) -> bool:
    """Tell whether a frame that begins so may hold so many bytes."""
    import zstandard

    try:
        told = zstandard.frame_content_size(head)
    except zstandard.ZstdError:
        return False
    return told in {size, -1}  # it need not tell
