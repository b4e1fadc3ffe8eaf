"""A TCP relay that counts: what really crosses the wire, whatever the ends believe."""

import queue
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

_REQUEST = re.compile(rb"(?:GET|HEAD|POST) [^\r\n]+ HTTP/1\.[01]\r\n")
_LONGEST_REQUEST_LINE = 2048


@dataclass(slots=True)
class Traffic:
    """What has crossed so far.

    Attributes:
        up: Bytes from the client to the server.
        down: Bytes from the server to the client.
        connections: Connections the client has made.
        requests: HTTP request lines seen on the way up.
        turns: Times the client spoke after the server had (or first spoke): what
            a link of long delay makes one wait for.
    """

    up: int = 0
    down: int = 0
    connections: int = 0
    requests: int = 0
    turns: int = 0

    def since(self, earlier: "Traffic") -> "Traffic":
        """Return what has been added to an earlier reading."""
        return Traffic(
            self.up - earlier.up,
            self.down - earlier.down,
            self.connections - earlier.connections,
            self.requests - earlier.requests,
            self.turns - earlier.turns,
        )


class Relay:
    """Listens on a free loopback port and passes everything on to another.

    Args:
        target: Port on 127.0.0.1 that connections are passed to.
        allowance: Bytes down after which the link is dead; None: it never dies.
        listener: Listens there instead.
        delay: Seconds that everything takes in each direction.
    """

    def __init__(
        self,
        target: int,
        allowance: int | None = None,
        listener: socket.socket | None = None,
        delay: float = 0.0,
    ) -> None:
        self._target, self._allowance, self._delay = target, allowance, delay
        self._traffic = Traffic()
        self._lock = threading.Lock()
        self._listener = listener or socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def read(self) -> Traffic:
        """Return what has crossed until now."""
        with self._lock:
            return replace(self._traffic)

    def mend(self) -> None:
        """Let the link live from now on."""
        self._allowance = None

    def close(self) -> None:
        """Take no more connections."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self._traffic.connections += 1
            threading.Thread(target=self._join, args=(client,), daemon=True).start()

    def _join(self, client: socket.socket) -> None:
        try:
            if self._is_dead():
                raise ConnectionResetError
            time.sleep(2 * self._delay)  # what it takes to connect
            server = socket.create_connection(("127.0.0.1", self._target))
        except OSError:
            client.close()
            return
        for end in (client, server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for pump in (self._pump_up, self._pump_down):
            threading.Thread(target=pump, args=(client, server), daemon=True).start()

    def _pump_up(self, client: socket.socket, server: socket.socket) -> None:
        tail, heard = b"", -1
        for data in _pass_on(client, server, self._delay):
            text = tail + data
            found = list(_REQUEST.finditer(text))
            tail = text[found[-1].end() if found else 0 :][-_LONGEST_REQUEST_LINE:]
            with self._lock:
                self._traffic.up += len(data)
                self._traffic.requests += len(found)
                self._traffic.turns += self._traffic.down != heard
                heard = self._traffic.down

    def _pump_down(self, client: socket.socket, server: socket.socket) -> None:
        for data in _pass_on(server, client, self._delay):
            with self._lock:
                self._traffic.down += len(data)
            if self._is_dead():
                break
        for end in (client, server):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _is_dead(self) -> bool:
        return self._allowance is not None and self._traffic.down > self._allowance


def _pass_on(
    source: socket.socket, sink: socket.socket, delay: float
) -> Iterator[bytes]:
    """Copy until the source ends; either end may hang up at any time."""
    with suppress(OSError):
        for data in _late(source, delay) if delay else _now(source):
            sink.sendall(data)
            yield data
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


def _now(source: socket.socket) -> Iterator[bytes]:
    while data := source.recv(1 << 16):
        yield data


def _late(source: socket.socket, delay: float) -> Iterator[bytes]:
    """Yield what comes, so many seconds after it came."""
    line: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()

    def read() -> None:
        with suppress(OSError):
            for data in _now(source):
                line.put((time.monotonic() + delay, data))
        line.put((time.monotonic() + delay, b""))

    threading.Thread(target=read, daemon=True).start()
    while True:
        due, data = line.get()
        time.sleep(max(due - time.monotonic(), 0.0))
        if not data:
            return
        yield data


@contextmanager
def relay_to(
    port: int, allowance: int | None = None, delay: float = 0.0
) -> Iterator[Relay]:
    """Run a relay to a loopback port until the block ends."""
    relay = Relay(port, allowance, delay=delay)
    try:
        yield relay
    finally:
        relay.close()
