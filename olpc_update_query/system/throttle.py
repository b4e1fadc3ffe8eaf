"""HTTP that takes no more bytes a second than it was told to."""

import socket
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection

from olpc_update_query.ports import Clock, Stream
from olpc_update_query.system.http import HttpTransport

_SLICES = 4  # of a second: what is handed on in one go
_CREDIT = 0.25  # seconds of idleness that may be made up for
_SMALLEST, _LARGEST = 8 * 1024, 1024 * 1024


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
        self._slice = max(limit // _SLICES, 1)
        self._lock = threading.Lock()
        self._due: float | None = None
        window = min(max(self._slice, _SMALLEST), _LARGEST)
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, _Narrow(window))

    def get(
        self,
        url: str,
        *,
        start: int = 0,
        length: int | None = None,
        validator: str | None = None,
    ) -> Stream:
        """Ask for bytes that will come slowly; see ``HttpTransport.get``."""
        stream = super().get(url, start=start, length=length, validator=validator)
        return stream._replace(chunks=self._slowly(stream.chunks))

    def _slowly(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """Hand on what comes in slices, each when its time has come."""
        for chunk in chunks:
            for at in range(0, len(chunk), self._slice):
                piece = chunk[at : at + self._slice]
                due = self._book(len(piece))
                yield piece
                if (wait := due - self._clock.boottime()) > 0:
                    self._clock.sleep(wait)

    def _book(self, size: int) -> float:
        """Return the moment before which no more bytes may come."""
        with self._lock:
            now = self._clock.boottime()
            if self._due is None:
                self._due = now
            self._due = max(self._due, now - _CREDIT) + size / self._limit
            return self._due
