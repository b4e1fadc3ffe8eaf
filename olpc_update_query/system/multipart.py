"""Several ranges of a file in one reply: ``multipart/byteranges`` (RFC 9110, 14.6).

What comes is believed as little as any reply: heads of parts are bounded, parts must be
ranges that were asked for, in their order, and each at most once. A server may join
neighbours with what little lies between them. Whoever sends anything else is to be
asked for one range at a time.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Final, NoReturn

from olpc_update_query import errors
from olpc_update_query.ports import RangesRefused
from olpc_update_query.system.headers import read_content_range

LONGEST_LINE: Final = 1024
MOST_LINES: Final = 16  # of the head of a part
SLACK: Final = 16 * 1024  # bytes that nobody asked for, in a whole reply
_BOUNDARY = re.compile(
    r"multipart/byteranges *;(?:[^\"]*; *)? *boundary="
    r"(?:\"([\w'()+,./:=? -]{0,69}[\w'()+,./:=?-])\"|([\w'+.^`|~!#$%&*:=?/-]{1,70}))"
    r" *(?:;.*)?",
    re.IGNORECASE | re.ASCII,
)

Range = tuple[int, int]


def boundary_of(content_type: str) -> bytes | None:
    """Return what separates the parts of a reply; None if it has no parts."""
    found = _BOUNDARY.fullmatch(content_type.strip())
    return None if found is None else (found[1] or found[2]).encode()


class Parts(Iterator[tuple[int, bytes]]):
    """The ranges of a reply, piece by piece with their offsets.

    Args:
        url: The file, for messages.
        body: The reply's body.
        asked: First offset and the one behind the last of each range asked for.
        boundary: What separates the parts; None when the body is one range.
        head: Which range that is, and the length of the whole file.

    Attributes:
        total: Length of the whole file in bytes.

    Raises:
        RangesRefused: It is not what was asked for; iterating raises it as well.
        NetworkError: The link failed; likewise.
    """

    def __init__(
        self,
        url: str,
        body: Iterator[bytes],
        asked: Sequence[Range],
        boundary: bytes | None,
        head: tuple[int, int, int | None] | None = None,
    ) -> None:
        self._url, self._body, self._asked = url, body, asked
        self._delimiter = None if boundary is None else b"--" + boundary
        self._buffer = bytearray()
        self._starts = {start: number for number, (start, _) in enumerate(asked)}
        self._next, self._slack = 0, SLACK
        self._at = self._end = 0
        if head is None:
            self._skip_blank_lines()
            head = self._read_head()
        if head[2] is None:
            self._refuse("it does not say how long the file is")
        self.total: int = head[2]
        self._begin(head)

    def __next__(self) -> tuple[int, bytes]:
        while self._at == self._end:
            if not self._has_another():
                self._finish()
                raise StopIteration
            self._begin(self._read_head())
        if not self._buffer:
            self._fill()
        data = bytes(self._buffer[: self._end - self._at])
        del self._buffer[: len(data)]
        self._at += len(data)
        return self._at - len(data), data

    def close(self) -> None:
        """Let go of the connection."""
        close = getattr(self._body, "close", None)
        if close is not None:
            close()

    # --- parts ----------------------------------------------------------------------

    def _begin(self, head: tuple[int, int, int | None]) -> None:
        """Check that a part is what was asked for, before its bytes are taken."""
        start, end, total = head
        first = self._starts.get(start, -1)
        if total != self.total or first < self._next:
            self._refuse(f"a part from {start} of {total} came")
        self._next, wanted = first, 0
        while self._next < len(self._asked) and self._asked[self._next][1] <= end:
            wanted += self._asked[self._next][1] - self._asked[self._next][0]
            self._next += 1
        self._slack -= end - start - wanted
        if self._next == first or self._asked[self._next - 1][1] != end:
            self._refuse(f"a part from {start} to {end} came")
        if self._slack < 0:
            self._refuse("far more came than was asked for")
        self._at, self._end = start, end

    def _skip_blank_lines(self) -> None:
        for _ in range(MOST_LINES):
            if line := self._line():
                if line != self._delimiter:
                    self._refuse("no part came first")
                return
        self._refuse("no part came")

    def _has_another(self) -> bool:
        """Read what is between two parts; say whether one follows."""
        if self._delimiter is None:
            return False
        if self._line():
            self._refuse("a part is not as long as it says")
        line = self._line()
        if line not in {self._delimiter, self._delimiter + b"--"}:
            self._refuse("a part is not as long as it says")
        return line == self._delimiter

    def _read_head(self) -> tuple[int, int, int | None]:
        found = []
        for _ in range(MOST_LINES):
            line = self._line()
            if not line:
                break
            name, _, value = line.partition(b":")
            if name.strip().lower() == b"content-range":
                found.append(read_content_range(value.decode("latin-1")))
        else:
            self._refuse("the head of a part does not end")
        if len(found) != 1 or found[0] is None:
            self._refuse("a part does not say which it is")
        return found[0]

    def _finish(self) -> None:
        """Take what follows the last part, so that the connection can be used again."""
        left = LONGEST_LINE - len(self._buffer)
        while left >= 0:
            piece = next(self._body, b"")
            if not piece:
                return
            left -= len(piece)
        self.close()

    # --- bytes ----------------------------------------------------------------------

    def _line(self) -> bytes:
        """Return the next line, without its end and what may precede that."""
        while (end := self._buffer.find(b"\r\n")) < 0:
            if len(self._buffer) > LONGEST_LINE:
                self._refuse("a line of a head is too long")
            self._fill()
        if end > LONGEST_LINE:
            self._refuse("a line of a head is too long")
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        return line.rstrip(b" \t")

    def _fill(self) -> None:
        piece = next(self._body, b"")
        if not piece:
            raise errors.NetworkError(self._url, "cut off in the middle of a part")
        self._buffer += piece

    def _refuse(self, reason: str) -> NoReturn:
        self.close()
        raise RangesRefused(self._url, f"several ranges at once: {reason}")
