"""Which bytes of a file have arrived, and the journal that says so after a power cut.

The journal is a text file beside the download. Each line, ``START END URL``, says that
the bytes from START up to END are on the disk, and who gave them. It is only ever
appended to, after the bytes themselves were synced. A line that was torn lacks its
newline or a field, and counts as nothing.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

JOURNAL: Final = ".have"
"""What is added to the name of a download to get the name of its journal."""
LARGEST_JOURNAL: Final = 16 << 20


class Span(NamedTuple):
    """Bytes of a file.

    Attributes:
        start: Offset of the first.
        end: Offset behind the last.
    """

    start: int
    end: int


class Spans:
    """A set of bytes: spans in order, with gaps between them."""

    def __init__(self, spans: Iterable[tuple[int, int]] = ()) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        for start, end in spans:
            self.add(start, end)

    def __iter__(self) -> Iterator[Span]:
        return map(Span, self._starts, self._ends)

    @property
    def total(self) -> int:
        """How many bytes it has."""
        return sum(self._ends) - sum(self._starts)

    @property
    def finish(self) -> int:
        """Offset behind the last byte."""
        return self._ends[-1] if self._ends else 0

    def add(self, start: int, end: int) -> None:
        """Add the bytes from ``start`` up to ``end``."""
        if start >= end:
            return
        first = bisect_left(self._ends, start)
        last = bisect_right(self._starts, end)
        if first < last:
            start = min(start, self._starts[first])
            end = max(end, self._ends[last - 1])
        self._starts[first:last] = [start]
        self._ends[first:last] = [end]

    def reach(self, start: int) -> int:
        """Return up to where all bytes from ``start`` on are there."""
        place = bisect_right(self._starts, start) - 1
        return max(start, self._ends[place]) if place >= 0 else start

    def last_before(self, end: int) -> Span:
        """Return the last run of bytes before ``end``; none, at 0, if none is there."""
        place = bisect_left(self._starts, end) - 1
        if place < 0:
            return Span(0, 0)
        return Span(self._starts[place], min(self._ends[place], end))

    def covers(self, start: int, end: int) -> bool:
        """Say whether all bytes from ``start`` up to ``end`` are there."""
        return self.reach(start) >= end

    def within(self, start: int, end: int) -> Iterator[Span]:
        """Yield what is there from ``start`` up to ``end``."""
        place = bisect_right(self._ends, start)
        while place < len(self._starts) and self._starts[place] < end:
            yield Span(max(self._starts[place], start), min(self._ends[place], end))
            place += 1

    def gaps(self, start: int, end: int) -> list[Span]:
        """Return what is lacking from ``start`` up to ``end``."""
        found = []
        while (start := self.reach(start)) < end:
            place = bisect_right(self._starts, start)
            stop = self._starts[place] if place < len(self._starts) else end
            found.append(Span(start, min(stop, end)))
            start = stop
        return found


def size_of(spans: Iterable[Span]) -> int:
    """Return how many bytes spans have that do not overlap."""
    return sum(end - start for start, end in spans)


def offset_in(spans: Iterable[Span], size: int) -> int:
    """Return the offset up to which spans, in order, have so many bytes.

    Returns:
        The end of the last where they have no more; 0 without spans.
    """
    end = 0
    for start, end in spans:
        if size <= end - start:
            return start + size
        size -= end - start
    return end


class Receipt(NamedTuple):
    """A line of a journal.

    Attributes:
        start: Offset of the first byte.
        end: Offset behind the last.
        url: Who gave them.
    """

    start: int
    end: int
    url: str

    def encode(self) -> bytes:
        """Return the line."""
        return f"{self.start} {self.end} {self.url}\n".encode()


def read_journal(raw: bytes) -> Iterator[Receipt]:
    """Yield what a journal says; lines that are no lines of one are left out."""
    for line in raw.split(b"\n")[:-1]:
        match line.split(b" ", 2):
            case [start, end, url] if _is_offset(start) and _is_offset(end):
                receipt = Receipt(int(start), int(end), url.decode("utf-8", "replace"))
                if receipt.start < receipt.end:
                    yield receipt
            case _:
                continue


def _is_offset(text: bytes) -> bool:
    return text.isdigit() and len(text) <= 18
