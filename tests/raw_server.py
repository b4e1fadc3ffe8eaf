"""A server that knows no HTTP: it sends the octets, and the silences, it is told."""

import contextlib
import re
import socket
import threading
from collections.abc import Callable, Iterable, Iterator

Part = bytes | float
"""Octets to send, or seconds to wait."""

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


class RawServer:
    """Listens on a free port of 127.0.0.1.

    Args:
        make: What to send to a request, from its body.

    Attributes:
        asked: How many requests have come.
    """

    def __init__(self, make: Callable[[bytes], Iterable[Part]]) -> None:
        self._make = make
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._closing = threading.Event()
        self.asked = 0
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Listen no more, and end every silence."""
        self._closing.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(
                    target=self._serve, args=(client,), daemon=True
                ).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            body = _read_request(client)
            self.asked += 1
            for part in self._make(body):
                if isinstance(part, bytes):
                    client.sendall(part)
                elif self._closing.wait(part):
                    return


def _read_request(client: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        data += client.recv(65536)
    head, _, body = data.partition(b"\r\n\r\n")
    found = _LENGTH.search(head)
    while found and len(body) < int(found[1]):
        body += client.recv(65536)
    return body


@contextlib.contextmanager
def raw_server(make: Callable[[bytes], Iterable[Part]]) -> Iterator[RawServer]:
    """Run a raw server until the block ends."""
    server = RawServer(make)
    try:
        yield server
    finally:
        server.close()
