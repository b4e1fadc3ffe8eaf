"""HTTP that takes no more bytes a second than it was told to."""

import socket
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection

from olpc_update_query.ports import Clock
from olpc_update_query.system.http import PIECE, HttpTransport

_PIECE = 1 / 16  # seconds: what is read in one go
_WINDOW = 1 / 8  # seconds: what may wait in the kernel, which takes up to twice that
_CREDIT = 0.05  # seconds of idleness that may be made up for
_PACKETS = 1500 / 1448  # with the headers of IP and TCP
_SMALLEST, _LARGEST = 2 * 1024, 1024 * 1024
_BEHIND_HEAD = 8 * 1024  # bytes that http.client may take in with a reply's head


class _Narrow(HTTPAdapter):
    """Connections into which the kernel lets in little more than is taken out."""

    def __init__(self, window: int) -> None:
        self._window = window
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Set up connections, but with a small window."""
        kwargs["socket_options"] = self._options()
        super().init_poolmanager(*args, **kwargs)

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        """Set up connections to a proxy, but with a small window."""
        kwargs["socket_options"] = self._options()
        return super().proxy_manager_for(*args, **kwargs)

    def _options(self) -> list[tuple[int, int, int | bytes]]:
        narrow = (socket.SOL_SOCKET, socket.SO_RCVBUF, self._window)
        return [*HTTPConnection.default_socket_options, narrow]


class ThrottledTransport(HttpTransport):
    """HTTP whose downloads, all together, keep below a bandwidth.

    All connections draw on one account, answers and headers of every kind included. A
    connection pays in advance for what the kernel takes in before anybody reads: one to
    two windows, so one and a half. The last bytes are paid for with that. So hardly
    more crosses the link at any time than is paid for.

    Args:
        user_agent: How we name ourselves.
        proxies: As ``network.proxies_for`` works them out.
        clock: For pauses.
        limit: Bytes a second.
    """

    def __init__(
        self, user_agent: str, proxies: Mapping[str, str], clock: Clock, limit: int
    ) -> None:
        super().__init__(user_agent, proxies)
        self._clock, self._limit = clock, limit
        self._piece = min(max(int(limit * _PIECE), 1), PIECE)
        self._lock = threading.Lock()
        self._due = clock.boottime()
        self._window = min(max(int(limit * _WINDOW), _SMALLEST), _LARGEST)
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, _Narrow(self._window))

    def _book(self, length: int | None) -> int:
        advance = self._window * 3 // 2 + self._piece + _BEHIND_HEAD
        if length is not None:
            advance = min(advance, length)
        self.wait(self.pay(advance))
        return advance

    def _paced(
        self, body: Iterator[bytes], advance: int, left: int | None
    ) -> Iterator[bytes]:
        return _Slowly(self, body, advance, left)

    def _count(self, received: int = 0, *, sent: int = 0) -> None:
        super()._count(received, sent=sent)
        self.pay(received)

    def pay(self, size: int) -> float:
        """Book bytes, or give them back; return when they are due."""
        with self._lock:
            earliest = self._clock.boottime() - _CREDIT
            self._due = max(self._due, earliest) + size * _PACKETS / self._limit
            return self._due

    def wait(self, due: float | None = None) -> None:
        """Wait until all that has been booked is due, or what this one has booked.

        Connections that are begun together so begin one after the other: each takes in
        some kilobytes at once.
        """
        moment = self._due if due is None else due
        if (wait := moment - self._clock.boottime()) > 0:
            self._clock.sleep(wait)


class _Slowly(Iterator[bytes]):
    """A body whose pieces are read one after the other, each when it is due.

    Args:
        transport: Whom to pay.
        chunks: The pieces.
        advance: Bytes that are paid for already: the first, which may have come with
            the reply's head, and the last, which wait in the kernel.
        left: Bytes to come, where that is known.
    """

    def __init__(
        self,
        transport: ThrottledTransport,
        chunks: Iterator[bytes],
        advance: int,
        left: int | None,
    ) -> None:
        self._transport, self._chunks = transport, chunks
        self._advance, self._left = advance, left
        self._first = min(advance, _BEHIND_HEAD)

    def __next__(self) -> bytes:
        if not self._first:  # which is paid for, and due
            self._transport.wait()
        piece = next(self._chunks)
        first = min(len(piece), self._first)
        self._give_back(first)
        self._first -= first
        if self._left is not None:
            self._left = max(self._left - len(piece), 0)
            self._give_back(max(self._advance - self._left, 0))
        return piece

    def _give_back(self, size: int) -> None:
        self._advance -= size
        self._transport.pay(-size)

    def close(self) -> None:
        """Let go of the connection; what it had paid for may have come unread."""
        close = getattr(self._chunks, "close", None)
        if close is not None:
            close()
