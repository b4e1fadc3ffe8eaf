"""What the inner layers ask of the outside world."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

from olpc_update_query import errors


class Clock(Protocol):
    """The machine's clocks, and the only way to sleep."""

    def now(self) -> int:
        """Return seconds since the epoch, UTC, as the machine believes."""

    def boottime(self) -> float:
        """Return seconds since boot, suspend included."""

    def sleep(self, seconds: float) -> None:
        """Wait."""


class Progress(Protocol):
    """Who is told what a run is doing."""

    def step(self, text: str) -> None:
        """Tell one step of the story, a plain sentence."""

    def transferred(self, done: int, total: int) -> None:
        """Tell how many bytes of how many have arrived."""


class Reply(NamedTuple):
    """A whole, bounded HTTP reply.

    Attributes:
        status: HTTP status.
        content_type: Its media type, lower case, without parameters.
        body: The body, decoded, at most the limit given.
        retry_after: Seconds the server asks us to wait, if it does.
        challenge: What it wants to be shown first, empty if nothing.
    """

    status: int
    content_type: str
    body: bytes
    retry_after: int | None
    challenge: str = ""


class Stream(NamedTuple):
    """An HTTP body that arrives in pieces.

    Attributes:
        start: Offset of the first byte that will come (0 when a range was ignored).
        total: Length of the whole resource in bytes, where the server says it.
        chunks: The bytes. Iterating raises NetworkError when the link fails.
        validator: What names this version of the resource, for ``If-Range``: a
            strong ETag or a modification date, where the server gives one.
        is_partial: Whether no more than the range that was asked for comes.
    """

    start: int
    total: int | None
    chunks: Iterator[bytes]
    validator: str | None = None
    is_partial: bool = False


class Pieces(NamedTuple):
    """Several ranges of one file, in the body of one HTTP reply.

    Attributes:
        total: Length of the whole file in bytes.
        chunks: The bytes, each piece with its offset, in the order of the offsets.
            Iterating raises NetworkError when the link fails.
    """

    total: int
    chunks: Iterator[tuple[int, bytes]]


class RangesRefused(errors.NetworkError):
    """A server does not give several ranges at once, or not as it should."""


class Transport(Protocol):
    """HTTP as the rest of the program sees it.

    Attributes:
        sent: Bytes sent so far.
        received: Bytes received so far.
        requests: Requests made so far.
    """

    sent: int
    received: int
    requests: int

    def post(
        self, url: str, body: bytes, *, limit: int, authorization: str = ""
    ) -> Reply:
        """Send a form and read a reply of at most ``limit`` bytes."""

    def get(
        self,
        url: str,
        *,
        start: int = 0,
        length: int | None = None,
        validator: str | None = None,
    ) -> Stream:
        """Ask for ``length`` bytes from ``start`` (to the end when None).

        With a ``validator`` the range counts only while the resource is still the
        version it names; otherwise, or when the server knows no ranges, the whole
        comes, from 0.
        """

    def get_ranges(self, url: str, ranges: Sequence[tuple[int, int]]) -> Pieces:
        """Ask for several ranges at once.

        What comes lies within them, but for small gaps that a server may close; some
        may be lacking.

        Args:
            url: The file.
            ranges: First offset and the one behind the last, in order, with gaps.

        Raises:
            RangesRefused: The server is to be asked for one range at a time;
                iterating raises it as well.
            NetworkError: The link failed.
        """
