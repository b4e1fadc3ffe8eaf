"""A listening socket on which no single address can take every connection."""

import errno
import socket
from collections import Counter
from threading import Lock
from typing import Any, Final

FROM_ONE: Final = 200
"""Connections that one address may hold open: a class behind one router needs some."""


class _Counted(socket.socket):
    """A connection that is counted until it is closed."""

    def __init__(self, crowd: "Crowd", host: str, fileno: int) -> None:
        super().__init__(fileno=fileno)
        self._leave: tuple[Crowd, str] | None = (crowd, host)

    def close(self) -> None:
        leave, self._leave = self._leave, None
        super().close()
        if leave is not None:
            crowd, host = leave
            crowd.leave(host)

    def __del__(self) -> None:
        self.close()


class Crowd:
    """How many connections each address has, on all sockets together."""

    def __init__(self) -> None:
        self._open: Counter[str] = Counter()
        self._lock = Lock()

    def enter(self, host: str) -> bool:
        """Count a connection, unless its address has enough of them."""
        with self._lock:
            if self._open[host] >= FROM_ONE:
                return False
            self._open[host] += 1
            return True

    def leave(self, host: str) -> None:
        """Count a connection no longer."""
        with self._lock:
            self._open[host] -= 1
            if self._open[host] <= 0:
                del self._open[host]


class Listener(socket.socket):
    """A listening socket that hangs up on whoever has too many connections.

    Args:
        listener: A socket that listens; it is taken over.
        crowd: Counts the connections.
    """

    def __init__(self, listener: socket.socket, crowd: Crowd) -> None:
        super().__init__(fileno=listener.detach())
        self._crowd = crowd

    def accept(self) -> tuple[socket.socket, Any]:
        """Accept a connection, as ``socket.accept`` does.

        Raises:
            BlockingIOError: There is none, or none that may stay.
        """
        connection, address = super().accept()
        host = str(address[0])
        if not self._crowd.enter(host):
            connection.close()
            raise BlockingIOError(errno.EWOULDBLOCK, "it has enough connections")
        return _Counted(self._crowd, host, connection.detach()), address
